import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax

from conftest import task_batch, task_model, tiny_model
from secateur.core.errors import InputError
from secateur.train.objective import NextToken, OwnLoss


def test_without_a_teacher_it_is_the_cross_entropy_of_every_next_token(ids):
    model = tiny_model("llama")
    logits = model(ids).logits[:, :-1]
    assert torch.allclose(NextToken(model)(ids), cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()))
    assert torch.equal(NextToken(model, tiny_model("gpt2"), 0.0)(ids), NextToken(model)(ids))


def test_with_a_teacher_it_is_mixed_with_the_divergence_from_it(ids):
    model, teacher = tiny_model("llama"), tiny_model("gpt2")
    own, taught = (log_softmax(each(ids).logits[:, :-1], dim=-1).flatten(0, 1) for each in (model, teacher))
    divergence = (taught.exp() * (taught - own)).sum(dim=1).mean()
    expected = 0.25 * NextToken(model)(ids) + 0.75 * divergence
    assert torch.allclose(NextToken(model, teacher, 0.75)(ids), expected, rtol=1e-4)


def test_a_teacher_of_another_vocabulary_is_refused():
    teacher = tiny_model("llama")
    teacher.config.vocab_size = 7
    with pytest.raises(InputError, match="the teacher has 7 tokens"):
        NextToken(tiny_model("llama"), teacher)


def test_a_models_own_loss_is_the_cross_entropy_of_its_classes():
    model = task_model("BertForSequenceClassification")
    batch, labels = task_batch(model), torch.tensor([1, 0, 1])
    expected = cross_entropy(model(**batch).logits, labels)
    assert torch.allclose(OwnLoss(model)({**batch, "labels": labels}), expected)

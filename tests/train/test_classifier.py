import pytest
import torch

from conftest import task_model, tiny_tokenizer
from secateur.core.errors import InputError
from secateur.train.classifier import Finetuning, finetune_

TEXTS = ["w3 w4 w5", "w30 w31", "w4 w3", "w31 w30 w32"] * 8
LABELS = [0, 1, 0, 1] * 8


def test_a_classifier_learns_and_its_embeddings_stay():
    model = task_model("BertForSequenceClassification")
    embeddings = model.get_input_embeddings().weight.clone()
    seen = []
    plan = Finetuning(epochs=40.0, batch=8, rate=3e-3)
    loss = finetune_(
        model, tiny_tokenizer(), TEXTS, LABELS, plan, progress=lambda done, total: seen.append((done, total))
    )
    assert loss < 0.3 and seen[-1] == (160, 160)
    assert torch.equal(model.get_input_embeddings().weight, embeddings)
    assert not model.training and not any(weight.requires_grad for weight in model.parameters())


def test_the_same_seed_gives_the_same_weights():
    models = [task_model("BertForSequenceClassification") for _ in range(2)]
    for model in models:
        finetune_(model, tiny_tokenizer(), TEXTS, LABELS, Finetuning(epochs=1.0, batch=8))
    both = zip(models[0].parameters(), models[1].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in both)


@pytest.mark.parametrize("bad", [{"epochs": 0.0}, {"batch": 0}, {"rate": -1.0}, {"length": 1}])
def test_training_that_does_nothing_is_refused(bad):
    with pytest.raises(InputError, match="fine-tuning needs"):
        Finetuning(**bad)

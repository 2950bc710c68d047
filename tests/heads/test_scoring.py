import pytest
import torch

from secateur.core.errors import InputError
from secateur.evaluate.task import score
from secateur.heads.scoring import Scoring, score_heads
from secateur.heads.subject import open_subject
from secateur.score.gates import gate_gradients


@pytest.fixture
def subject(saved_task):
    return open_subject(saved_task("BertForSequenceClassification"))


def same(first, second):
    return all(torch.allclose(a, b.to(a), rtol=1e-6) for a, b in zip(first, second, strict=True))


def test_importance_is_the_gate_gradient_over_its_layers_norm(subject, labelled):
    task = subject.read(str(labelled))
    raw = score_heads(subject, task, Scoring(normalise=False))
    assert same(raw, gate_gradients(subject.model, subject.attentions, task.batches, task.loss))
    assert same(score_heads(subject, task, Scoring()), [row / row.norm() for row in raw])


def test_every_other_score_is_what_it_says(subject, labelled):
    task = subject.read(str(labelled))
    weight = subject.attentions[1].output.weight
    magnitude = score_heads(subject, task, Scoring(by="magnitude"))
    assert float(magnitude[1][2]) == pytest.approx(float(weight[:, 16:24].norm()))
    chance = [score_heads(subject, task, Scoring(by="random", seed=seed)) for seed in (0, 0, 1)]
    assert same(chance[0], chance[1]) and not same(chance[0], chance[2])
    seen = []
    lost = score_heads(subject, task, Scoring(by="ablation"), progress=lambda *done: seen.append(done))
    whole = score(task, subject.model)
    subject.attentions[0].output.module.weight[:, 8:16] = 0
    assert float(lost[0][1]) == pytest.approx(whole - score(task, subject.model)) and seen[-1] == (11, 12)


def test_scores_are_taken_with_dead_heads_gone(subject, labelled):
    task = subject.read(str(labelled))
    live = subject.live
    live[0] = torch.tensor([True, False, True, True])
    scores = score_heads(subject, task, Scoring(normalise=False), live)
    subject.attentions[0].output.module.weight[:, 8:16] = 0
    expected = score_heads(subject, task, Scoring(normalise=False))
    assert same(scores[1:], expected[1:]) and not same(scores[:1], expected[:1])


def test_names_nobody_knows_are_refused():
    for bad in ({"by": "colour"}, {"level": "batch"}):
        with pytest.raises(InputError, match="unknown"):
            Scoring(**bad)

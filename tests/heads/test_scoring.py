import pytest
import torch

from secateur.core.errors import InputError
from secateur.heads.scoring import Scoring, score_heads
from secateur.heads.task_model import open_task_model
from secateur.score.gates import gate_gradients
from secateur.tasks.task import score


@pytest.fixture
def task_model(saved_task):
    return open_task_model(saved_task("BertForSequenceClassification"))


def same(first, second):
    return all(torch.allclose(a, b.to(a), rtol=1e-6) for a, b in zip(first, second, strict=True))


def test_importance_is_the_gate_gradient_over_its_layers_norm(task_model, labelled):
    task = task_model.read(str(labelled))
    raw = score_heads(task_model, task, Scoring(normalise=False))
    assert same(raw, gate_gradients(task_model.model, task_model.attentions, task.batches, task.loss))
    assert same(score_heads(task_model, task, Scoring()), [row / row.norm() for row in raw])


def test_every_other_score_is_what_it_says(task_model, labelled):
    task = task_model.read(str(labelled))
    weight = task_model.attentions[1].output.weight
    magnitude = score_heads(task_model, task, Scoring(score="magnitude"))
    assert float(magnitude[1][2]) == pytest.approx(float(weight[:, 16:24].norm()))
    chance = [score_heads(task_model, task, Scoring(score="random", seed=seed)) for seed in (0, 0, 1)]
    assert same(chance[0], chance[1]) and not same(chance[0], chance[2])
    seen = []
    lost = score_heads(task_model, task, Scoring(score="ablation"), progress=lambda *done: seen.append(done))
    whole = score(task, task_model.model)
    task_model.attentions[0].output.module.weight[:, 8:16] = 0
    assert float(lost[0][1]) == pytest.approx(whole - score(task, task_model.model)) and seen[-1] == (11, 12)


def test_scores_are_taken_with_dead_heads_gone(task_model, labelled):
    task = task_model.read(str(labelled))
    keep = task_model.keep
    keep[0] = torch.tensor([True, False, True, True])
    scores = score_heads(task_model, task, Scoring(normalise=False), keep)
    task_model.attentions[0].output.module.weight[:, 8:16] = 0
    expected = score_heads(task_model, task, Scoring(normalise=False))
    assert same(scores[1:], expected[1:]) and not same(scores[:1], expected[:1])


def test_names_nobody_knows_are_refused():
    for bad in ({"score": "colour"}, {"level": "batch"}):
        with pytest.raises(InputError, match="unknown"):
            Scoring(**bad)

import pytest

from secateur.heads.ablation import ablate, keep_one
from secateur.heads.task_model import DataOptions, open_task_model
from secateur.tasks.task import score


def test_without_a_head_is_the_model_with_its_columns_at_zero(saved_task, labelled):
    task_model = open_task_model(saved_task("BertForSequenceClassification"))
    task = task_model.read(str(labelled))
    seen = []
    found = ablate(task_model, task, progress=lambda *done: seen.append(done))
    assert found.score == score(task, task_model.model) and seen[-1] == (11, 12)
    weight = task_model.attentions[2].output.module.weight
    weight[:, 24:] = 0
    assert float(found.effects[2][3]) == pytest.approx(score(task, task_model.model) - found.score, abs=1e-6)


def test_one_head_alone_and_the_best_of_them(saved, text):
    task_model = open_task_model(saved("llama"))
    task = task_model.read(str(text), DataOptions(samples=4, length=16))
    found = keep_one(task_model, task)
    best = found.best(higher=task.higher)
    assert [interval.change for _, interval in best] == [min(one.change for one in row) for row in found.changes]
    weight = task_model.attentions[0].output.module.weight
    weight[:, :16] = 0
    weight[:, 24:] = 0
    assert found.score + found.changes[0][2].change == pytest.approx(score(task, task_model.model), rel=1e-5)

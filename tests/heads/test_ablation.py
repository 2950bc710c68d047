import pytest

from secateur.evaluate.task import score
from secateur.heads.ablation import ablate, keep_one
from secateur.heads.subject import Reading, open_subject


def test_without_a_head_is_the_model_with_its_columns_at_zero(saved_task, labelled):
    subject = open_subject(saved_task("BertForSequenceClassification"))
    task = subject.read(str(labelled))
    seen = []
    found = ablate(subject, task, progress=lambda *done: seen.append(done))
    assert found.score == score(task, subject.model) and seen[-1] == (11, 12)
    weight = subject.attentions[2].output.module.weight
    weight[:, 24:] = 0
    assert float(found.effects[2][3]) == pytest.approx(score(task, subject.model) - found.score, abs=1e-6)


def test_one_head_alone_and_the_best_of_them(saved, text):
    subject = open_subject(saved("llama"))
    task = subject.read(str(text), Reading(samples=4, length=16))
    found = keep_one(subject, task)
    best = found.best(higher=task.higher)
    assert [interval.change for _, interval in best] == [min(one.change for one in row) for row in found.changes]
    weight = subject.attentions[0].output.module.weight
    weight[:, :16] = 0
    weight[:, 24:] = 0
    assert found.score + found.changes[0][2].change == pytest.approx(score(task, subject.model), rel=1e-5)

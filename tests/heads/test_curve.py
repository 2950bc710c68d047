import pytest

from secateur.heads.curve import Curve, head_curve
from secateur.heads.removal import RemovalOptions
from secateur.heads.scoring import Scoring
from secateur.heads.task_model import open_task_model
from secateur.tasks.task import score


def test_a_curve_ends_where_nothing_is_left_whatever_the_order(saved_task, labelled):
    task_model = open_task_model(saved_task("BertForSequenceClassification"))
    task = task_model.read(str(labelled))
    orders = {name: RemovalOptions(scoring=Scoring(score=name)) for name in ("importance", "magnitude")}
    found = head_curve(task_model, task, task, [0.5, 1.0], orders)
    assert found.dense == score(task, task_model.model) and set(found.lines) == set(orders)
    for attention in task_model.attentions:
        attention.output.module.weight.zero_()
    for name, line in found.lines.items():
        assert line[1] == pytest.approx(score(task, task_model.model)), name
        assert found.low[name][0] <= line[0] <= found.high[name][0]


@pytest.mark.parametrize(
    ("higher", "dense", "line", "share"),
    [
        (True, 0.9, [0.9, 0.895, 0.8], 0.2),
        (True, 0.9, [0.8, 0.9, 0.9], 0.0),
        (True, 0.9, [0.9] * 3, 0.3),
        (False, 10.0, [10.05, 10.2, 10.0], 0.1),
    ],
)
def test_what_goes_for_free_ends_before_the_first_loss(higher, dense, line, share):
    curve = Curve("m", higher, dense, [0.1, 0.2, 0.3], {"a": line}, {}, {})
    assert curve.free() == {"a": share} and curve.to_dict()["free_within_1_percent"] == {"a": share}

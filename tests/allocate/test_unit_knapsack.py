import pytest
import torch

from secateur.allocate.knapsack import MEASURED
from secateur.allocate.problem import Problem
from secateur.allocate.unit_knapsack import UnitKnapsack, column_losses
from secateur.calibrate.sensitivity import Sensitivity
from secateur.calibrate.statistic import Gathered, Gram
from secateur.core.errors import InputError, RatioError
from secateur.core.linalg import damped
from secateur.core.protocols import BlockView
from secateur.testing import problem, summary


def test_losses_are_the_weighted_squared_changes_after_the_best_repair():
    weight, x = problem(5, 12)
    gram = summary(weight, x)[Gram].value
    sensitivity = torch.rand(5)
    inverse = torch.linalg.inv(damped(gram, 0.01).double())
    order = (weight.double().square().sum(0) / inverse.diagonal()).argsort()
    for count, loss in zip((3, 6), column_losses(weight, gram, sensitivity, [0.25, 0.5]), strict=True):
        kept = order[count:].sort().values
        solved = torch.zeros_like(weight).double()
        matrix = damped(gram, 0.01).double()
        solved[:, kept] = weight.double() @ matrix[:, kept] @ torch.linalg.inv(matrix[kept][:, kept])
        change = x.double() @ (weight.double() - solved).T
        assert loss == pytest.approx(float((change.square().mean(0) * sensitivity).sum() / 2), rel=1e-3)


def view(scale):
    names = {"b.q": (8, 8), "b.o": (8, 8), "b.up": (16, 8), "b.down": (8, 16)}
    weights, stats = {}, {}
    for name, (rows, columns) in names.items():
        weights[name], x = problem(rows, columns)
        parts = summary(weights[name], x).parts
        stats[name] = Gathered({**parts, Sensitivity: Sensitivity(scale * torch.ones(rows), 1)})
    return BlockView(weights, stats, None, ("b.o", "b.down"))


def test_a_block_the_loss_notices_more_loses_less():
    summaries = {"a": UnitKnapsack().read(view(1.0)), "b": UnitKnapsack().read(view(9.0))}
    assert summaries["b"] == pytest.approx([9 * loss for loss in summaries["a"]], rel=1e-4)
    found = UnitKnapsack().allocate(Problem({"a": {"a.w": 10}, "b": {"b.w": 10}}, summaries), 0.4)
    assert found.ratios["a"] > found.ratios["b"] and found.mean({"a": 10, "b": 10}) == pytest.approx(0.4)


def test_channels_alone_make_up_for_heads_that_stay():
    both, ffn = UnitKnapsack().read(view(1.0)), UnitKnapsack(sites="ffn").read(view(1.0))
    part = view(1.0)
    down = part.weights["b.down"]
    share = 2 * down.numel() / (2 * down.numel() + 128)
    expected = column_losses(down, part.stats["b.down"][Gram].value, torch.ones(8), [0.2 / share])
    assert ffn[1] == pytest.approx(expected[0]) and both[1] != pytest.approx(ffn[1])
    assert len(ffn) < len(both) == len(MEASURED)  # heads stay, so a block cannot lose everything
    names = {name: weight.numel() for name, weight in part.weights.items()}
    for target in (0.1, 0.5, 0.6, 0.65):
        found = UnitKnapsack(sites="ffn").allocate(Problem({"a": names, "b": names}, {"a": ffn, "b": ffn}), target)
        assert found.mean({"a": 1, "b": 1}) == pytest.approx(target)
    with pytest.raises(RatioError, match="above the knapsack's highest, 0.7"):
        UnitKnapsack(sites="ffn").allocate(Problem({"a": names}, {"a": ffn}), 0.9)
    with pytest.raises(InputError, match="all or ffn"):
        UnitKnapsack(sites="heads")


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_dead_columns_go_first_and_cost_nothing_at_any_scale(scale):
    weight, x = problem(5, 16)
    live = torch.arange(16) % 4 != 0
    gram = summary(weight, scale * x * live)[Gram].value
    alone = summary(weight[:, live], x[:, live])[Gram].value
    found = column_losses(weight, gram, torch.ones(5), [0.25, 0.5, 0.75])
    expected = column_losses(weight[:, live], alone, torch.ones(5), [0.0, 1 / 3, 2 / 3])
    assert [loss / scale**2 for loss in found] == pytest.approx(expected, rel=1e-3, abs=1e-9)

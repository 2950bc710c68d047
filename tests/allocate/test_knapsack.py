import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.allocate.knapsack import Knapsack, cheapest, ratio_losses
from secateur.allocate.problem import Problem
from secateur.calibrate.statistic import Gram
from secateur.core.errors import InputError, RatioError
from secateur.core.pattern import PerRow
from secateur.score.wanda import Wanda
from secateur.solve.threshold import Threshold
from secateur.testing import problem, summary


def test_losses_are_half_the_weighted_squared_changes_of_wandas_outputs():
    weight, x = problem(5, 20)
    stats = summary(weight, x)
    sensitivity = torch.rand(5)
    ratios = [0.25, 0.5, 1.0]
    found = ratio_losses(weight, stats[Gram].value, sensitivity, ratios)
    for ratio, loss in zip(ratios, found, strict=True):
        pruned = Threshold(score=Wanda()).solve(weight, stats, PerRow(), ratio).weight
        change = x @ (weight - pruned).T
        assert loss == pytest.approx(float((change.square().mean(dim=0) * sensitivity).sum() / 2), rel=1e-4)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.lists(st.floats(0, 1), min_size=3, max_size=3)), min_size=1, max_size=4)
)
def test_the_choice_is_the_best_there_is(parts):
    ratios = [0.2, 0.5, 0.8]
    sizes = {str(i): size for i, (size, _) in enumerate(parts)}
    losses = {str(i): sorted(values) for i, (_, values) in enumerate(parts)}
    found = cheapest(losses, ratios, sizes, 0.5)
    total = sum(sizes.values())

    def cost(choice):
        return sum(losses[name][place] for name, place in zip(sizes, choice, strict=True))

    def removed(choice):
        return sum(ratios[place] * size for place, size in zip(choice, sizes.values(), strict=True)) / total

    best = min(cost(c) for c in itertools.product(range(3), repeat=len(sizes)) if removed(c) >= 0.5 - 1e-9)
    chosen = [ratios.index(found[name]) for name in sizes]
    assert removed(chosen) >= 0.5 - 1e-9 and cost(chosen) <= best * (1 + 1e-3) + 1e-6


def test_what_costs_less_loses_more_and_names_do_not_matter():
    curve = [i**2 / 100 for i in range(1, 10)]
    readings = {"a": {"a.w": curve}, "b": {"b.w": [8 * c for c in curve]}, "c": {"c.w": [3 * c for c in curve]}}
    blocks = {name: {f"{name}.w": 100} for name in readings}
    found = Knapsack().allocate(Problem(blocks, readings), 0.5)
    assert found.mean(Problem(blocks).layers) == pytest.approx(0.5, abs=1e-9)
    assert found.ratios["a.w"] > found.ratios["c.w"] > found.ratios["b.w"]
    assert min(found.ratios.values()) >= 0.25 - 1e-9 and max(found.ratios.values()) <= 0.75 + 1e-9
    turned = Problem(dict(reversed(blocks.items())), dict(reversed(readings.items())))
    assert Knapsack().allocate(turned, 0.5).ratios == pytest.approx(found.ratios)


def test_what_cannot_be_met_is_refused():
    with pytest.raises(RatioError, match="highest"):
        cheapest({"a": [0.1, 0.2]}, [0.2, 0.4], {"a": 1}, 0.5)
    with pytest.raises(InputError, match="grid"):
        Knapsack(grid=0.5)

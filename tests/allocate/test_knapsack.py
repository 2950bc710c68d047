import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from secateur.allocate.knapsack import MEASURED, Knapsack, cheapest, choose, expected_loss, ratio_losses
from secateur.allocate.problem import Problem
from secateur.calibrate.statistic import Gram
from secateur.core.errors import InputError, NumericalError, RatioError
from secateur.core.pattern import PerRow
from secateur.score.wanda import Wanda
from secateur.solve.mask_only import MaskOnly
from secateur.testing import problem, summary


def test_losses_are_half_the_weighted_squared_changes_of_wandas_outputs():
    weight, x = problem(5, 20)
    stats = summary(weight, x)
    sensitivity = torch.rand(5)
    ratios = [0.25, 0.5, 1.0]
    found = ratio_losses(weight, stats[Gram].value, sensitivity, ratios)
    for ratio, loss in zip(ratios, found, strict=True):
        pruned = MaskOnly(score=Wanda()).solve(weight, stats, PerRow(), ratio).weight
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
    assert removed(chosen) >= 0.5 - 1e-9 and cost(chosen) <= best * (1 + 1e-8)


@pytest.mark.parametrize("seed", range(40))
def test_the_choice_equals_brute_force_on_any_curves(seed):
    draw = np.random.default_rng(seed)
    count, places = int(draw.integers(1, 6)), int(draw.integers(1, 6))
    ratios = sorted((draw.choice(101, places, replace=False) / 100).tolist())
    sizes = {str(part): int(draw.integers(1, 10**6)) for part in range(count)}
    losses = {name: draw.exponential(size=places) * 10.0 ** draw.integers(-9, 9) for name in sizes}
    if seed % 2:  # as measured: more removed costs more, and some ratios cannot be had
        losses = {name: np.sort(found) for name, found in losses.items()}
        losses[str(count - 1)][draw.integers(1, places + 1) :] = np.inf
    target = round(float(draw.random()), 3)
    weights = np.array(list(sizes.values()), dtype=float)
    best = np.inf
    for choice in itertools.product(range(places), repeat=count):
        if weights @ np.array(ratios)[list(choice)] >= (target - 1e-12) * weights.sum():
            best = min(best, sum(found[place] for found, place in zip(losses.values(), choice, strict=True)))
    if best == np.inf:
        with pytest.raises(RatioError, match="above the knapsack's highest"):
            cheapest({name: found.tolist() for name, found in losses.items()}, ratios, sizes, target)
        return
    found = cheapest({name: found.tolist() for name, found in losses.items()}, ratios, sizes, target)
    assert sum(losses[name][ratios.index(ratio)] for name, ratio in found.items()) == pytest.approx(best, rel=1e-8)


def test_a_whole_models_choice_equals_an_integer_programs():
    draw = np.random.default_rng(0)
    ratios = np.round(np.arange(0.25, 0.76, 0.05), 6)
    shapes = [576 * 576, 576 * 192, 576 * 192, 576 * 576, *[576 * 1536] * 3] * 8
    sizes = {str(part): size for part, size in enumerate(shapes)}  # HiGHS lets a constraint slip by 1e-6
    losses = {name: draw.lognormal(0, 1.2) * ratios ** (2 + draw.random()) for name in sizes}
    found = cheapest({name: found.tolist() for name, found in losses.items()}, ratios.tolist(), sizes, 0.5)
    weights, cost = np.array(list(sizes.values())), np.array(list(losses.values()))
    once = sparse.kron(sparse.eye(len(sizes)), np.ones((1, len(ratios))))
    gain = np.outer(weights / weights.sum(), ratios).ravel()
    limits = [LinearConstraint(once, 1, 1), LinearConstraint(gain[None], 0.5 - 1e-12, np.inf)]
    exact = milp(
        cost.ravel(),
        integrality=np.ones(cost.size),
        bounds=Bounds(0, 1),
        constraints=limits,
        options={"mip_rel_gap": 0},
    )
    paid = sum(losses[name][list(ratios).index(ratio)] for name, ratio in found.items())
    assert paid == pytest.approx(exact.fun, rel=1e-6)


@pytest.mark.parametrize("target", [0.001, 0.05, 0.3, 0.5, 0.66, 0.85, 0.9, 0.93, 0.9501, 0.99, 0.999])
@pytest.mark.parametrize(("reach", "grid"), [(0.25, 0.05), (1.0, 0.03), (0.07, 0.05)])
def test_every_target_is_met_and_paid_at_the_measured_price(target, reach, grid):
    steep, flat = [m**4 for m in MEASURED], [m**4 / 50 for m in MEASURED]
    blocks = {"a": {"a.w": 300, "a.v": 101}, "b": {"b.w": 201}}
    summaries = {"a": {"a.w": steep, "a.v": flat}, "b": {"b.w": flat}}
    found = Knapsack(reach=reach, grid=grid).allocate(Problem(blocks, summaries), target)
    assert found.mean(Problem(blocks).layers) == pytest.approx(target, abs=1e-9)
    assert all(0 <= ratio <= 1 and abs(ratio - target) <= reach + grid for ratio in found.ratios.values())
    assert found.ratios["a.w"] < found.ratios["b.w"]  # not uniform, near 1 neither


def test_ratios_beyond_nine_tenths_are_not_sold_at_its_price():
    cliff = [0.01 * m if m <= 0.9 else 10.0 for m in MEASURED]  # the last tenth is what costs
    gentle = [0.02 * m for m in MEASURED]
    summaries = {"a": {"a.w": cliff}, "b": {"b.w": gentle}}
    found = Knapsack().allocate(Problem({"a": {"a.w": 100}, "b": {"b.w": 100}}, summaries), 0.66)
    assert found.ratios["a.w"] <= 0.9 and found.mean({"a.w": 100, "b.w": 100}) == pytest.approx(0.66)


def test_the_last_measured_loss_is_that_of_no_weights_at_all():
    weight, x = problem(5, 20)
    gram = summary(weight, x)[Gram].value
    assert MEASURED[-1] == 1.0
    whole = expected_loss(weight, gram, torch.ones(5))
    assert ratio_losses(weight, gram, torch.ones(5), MEASURED)[-1] == pytest.approx(whole, rel=1e-6)


def test_what_costs_less_loses_more_and_names_do_not_matter():
    curve = [i**2 / 100 for i in range(1, 10)]
    summaries = {"a": {"a.w": curve}, "b": {"b.w": [8 * c for c in curve]}, "c": {"c.w": [3 * c for c in curve]}}
    blocks = {name: {f"{name}.w": 100} for name in summaries}
    found = Knapsack().allocate(Problem(blocks, summaries), 0.5)
    assert found.mean(Problem(blocks).layers) == pytest.approx(0.5, abs=1e-9)
    assert found.ratios["a.w"] > found.ratios["c.w"] > found.ratios["b.w"]
    assert min(found.ratios.values()) >= 0.25 - 1e-9 and max(found.ratios.values()) <= 0.75 + 1e-9
    turned = Problem(dict(reversed(blocks.items())), dict(reversed(summaries.items())))
    assert Knapsack().allocate(turned, 0.5).ratios == pytest.approx(found.ratios)


def test_what_cannot_be_met_is_refused():
    with pytest.raises(RatioError, match="highest"):
        cheapest({"a": [0.1, 0.2]}, [0.2, 0.4], {"a": 1}, 0.5)
    with pytest.raises(NumericalError, match="not a number"):
        cheapest({"a": [0.1, float("nan")]}, [0.2, 0.4], {"a": 1}, 0.3)
    with pytest.raises(InputError, match="grid"):
        Knapsack(grid=0.5)


@pytest.mark.parametrize("seed", range(40))
def test_gains_and_ratios_of_each_part_equal_brute_force(seed):
    draw = np.random.default_rng(seed)
    count, places = int(draw.integers(1, 5)), int(draw.integers(1, 5))
    ratios = np.sort(draw.integers(0, 101, (count, places)) / 100, axis=1)
    sizes = {str(part): int(draw.integers(1, 100)) for part in range(count)}
    losses = {name: (draw.normal(size=places) * float(draw.integers(0, 3))).tolist() for name in sizes}
    total = sum(sizes.values())
    need = float(ratios.min(axis=1) @ list(sizes.values())) / total

    def cost(choice):
        return sum(losses[name][place] for name, place in zip(sizes, choice, strict=True))

    def removed(choice):
        return float(ratios[range(count), choice] @ list(sizes.values()))

    choices = list(itertools.product(range(places), repeat=count))
    best = min(cost(choice) for choice in choices if removed(choice) >= need * total - 1e-6)
    found = cheapest(losses, ratios.tolist(), sizes, float(np.floor(need * 1e6) / 1e6))
    reached = min(
        cost(choice)
        for choice in choices
        if all(ratios[part, place] == found[str(part)] for part, place in enumerate(choice))
    )
    assert reached <= best + 1e-6


@pytest.mark.parametrize("seed", range(60))
def test_no_ratio_is_beyond_its_reach(seed):
    draw = np.random.default_rng(seed)
    sizes = {str(part): int(10 ** draw.uniform(0, 4)) for part in range(int(draw.integers(1, 5)))}
    curves = {name: np.sort(draw.exponential(size=len(MEASURED))).tolist() for name in sizes}
    found = choose(curves, sizes, 0.5, (0.25, 0.1), 0.05)
    assert found.mean(sizes) == pytest.approx(0.5)
    assert all(0.25 - 1e-9 <= ratio <= 0.6 + 1e-9 for ratio in found.ratios.values())


def test_numbers_that_overflow_or_vanish_are_chosen_among_too():
    for tiny in (1e-318, 1e-300, 1e300, 1e308):
        found = cheapest({"a": [0.0, tiny], "b": [0.0, tiny / 1.5]}, [0.0, 0.5], {"a": 1, "b": 1}, 0.25)
        assert found == {"a": 0.0, "b": 0.5}
    with pytest.raises(NumericalError):
        cheapest({"a": [0.0, -np.inf]}, [0.0, 0.5], {"a": 1}, 0.25)
    with pytest.raises(RatioError, match="nothing to choose"):
        cheapest({}, [0.0, 0.5], {}, 0.25)

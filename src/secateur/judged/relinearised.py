"""The knapsack's second order taken anew at the masked model, within a small trust region."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from secateur.allocate.knapsack import Knapsack, cheapest
from secateur.allocate.problem import PricingJudge, Problem
from secateur.calibrate.sensitivity import Sensitivity
from secateur.calibrate.statistic import Gram
from secateur.core.allocation import Allocation
from secateur.core.errors import InputError
from secateur.core.protocols import BlockView, Statistic

__all__ = ["Relinearised", "improved", "input_norms"]

_MOVES = (-0.1, -0.05, 0.0, 0.05, 0.1)  # that are priced
_PARTS = 4  # of the trust region, on both sides, to choose from
_HALVINGS = 3
_Prices = tuple[tuple[float, ...], list[float]]  # moves, and what they cost


@dataclass(frozen=True, kw_only=True)
class Relinearised:
    """Ours: the knapsack's ratios, then steps whose prices are taken at the masked model and judged on held-out text.

    Formula: min sum_l p_l(d_l) subject to the target, |d_l| <= trust, p the prices at the masked model [ours]

    reach and grid as in `Knapsack`. steps: each takes one backward pass. trust: how far a ratio moves in a step; it is
    halved where the held-out loss does not fall. Where n of every m weights stay, a ratio moves by one of m instead.
    The whole model is in memory, with its dense weights and their ranks.
    """

    reach: float = 0.25
    grid: float = 0.05
    steps: int = 1
    trust: float = 0.08

    def __post_init__(self) -> None:
        """Refuse fields outside their range."""
        Knapsack(reach=self.reach, grid=self.grid)
        if self.steps < 0 or not 0 < self.trust <= 1:
            raise InputError(
                f"relinearised needs steps of at least 0 and trust in 0..1, got {self.steps}, {self.trust}"
            )

    @property
    def needs(self) -> tuple[type[Statistic], ...]:
        """The Gram of the inputs, and how much the loss notices the outputs."""
        return (Gram, Sensitivity)

    def watch(self) -> None:
        """What passes between blocks is not looked at."""

    def read(self, view: BlockView) -> dict[str, Any]:
        """The knapsack's curves, and the inputs' norms."""
        return {"norms": input_norms(view), "curves": Knapsack().read(view)}

    def inputs(self, problem: Problem) -> Mapping[str, Tensor]:
        """The root mean square of every input, by layer name."""
        return {name: norm for block in problem.summaries.values() for name, norm in block["norms"].items()}

    def allocate(self, problem: Problem, ratio: float) -> Allocation:
        """Ratios by layer. Raises RatioError where no choice meets the target."""
        curves = {name: block["curves"] for name, block in problem.summaries.items()}
        knapsack = Knapsack(reach=self.reach, grid=self.grid)
        start = knapsack.allocate(problem._replace(summaries=curves), ratio)
        if not isinstance(problem.judge, PricingJudge):
            return start
        first = problem.judge.loss(start.ratios, "knapsack")
        best, _ = improved(problem, start, first, ratio, (self.steps, self.trust))
        return best


def input_norms(view: BlockView) -> dict[str, Tensor]:
    """The root mean square of every input `[in]`, by layer name, from the Grams."""
    return {name: view.stats[name][Gram].value.diagonal().div(2).sqrt() for name in view.weights}


def improved(
    problem: Problem, start: Allocation, loss: float, target: float, how: tuple[int, float]
) -> tuple[Allocation, float]:
    """Ratios of the least held-out loss that steps from `start` led to, and that loss; how: steps, and trust.

    A step is the exact choice of least priced change that meets the target, every ratio within the trust region; what
    it removes beyond the target is given back evenly.
    """
    judge, sizes = problem.judge, problem.layers
    assert isinstance(judge, PricingJudge)
    steps, trust = how
    m, halvings, parts = judge.group, _HALVINGS, _PARTS
    if m is not None:  # there is nothing between two counts of m
        trust, halvings, parts = 1 / m, 1, 1
        start = _grouped(start, sizes, m)
    priced = _MOVES if m is None else tuple(count / m for count in (-2, -1, 0, 1, 2))
    for step in range(1, steps + 1):
        prices = {name: (priced, own) for name, own in judge.prices(start.ratios, priced).items()}
        found = None
        for _ in range(halvings):
            moved = _moved(start, prices, sizes, target, trust * np.linspace(-1, 1, 2 * parts + 1))
            moved = moved if m is None else _grouped(moved, sizes, m)
            after = judge.loss(moved.ratios, f"step {step} of {trust:g}")
            if after < loss:
                found, loss = moved, after
                break
            trust /= 2
        if found is None:
            break
        start = found
    return start, loss


def _grouped(ratios: Allocation, sizes: Mapping[str, int], m: int) -> Allocation:
    """Whole numbers of every m, as prune rounds them."""
    return Allocation({name: count / m for name, count in ratios.group_counts(sizes, m).items()})


def _moved(
    start: Allocation, prices: Mapping[str, _Prices], sizes: Mapping[str, int], target: float, moves: Any
) -> Allocation:
    """The cheapest ratios, by these moves from the start, that meet the target."""
    ratios = {name: np.clip(start.ratios[name] + moves, 0, 1) for name in sizes}
    losses = {name: _interpolated(ratios[name] - start.ratios[name], prices[name]) for name in sizes}
    chosen = cheapest(losses, [own.tolist() for own in ratios.values()], sizes, target)
    return Allocation(chosen).balanced(sizes, target)


def _interpolated(moves: Any, measured: _Prices) -> list[float]:
    """Prices of moves: on lines between those measured, beyond them on the parabola through the last three."""
    priced, prices = measured
    inner = np.interp(moves, priced, prices)
    for side, places in ((moves < priced[0], slice(0, 3)), (moves > priced[-1], slice(2, 5))):
        parabola = np.polyfit(priced[places], prices[places], 2)
        inner = np.where(side, np.polyval(parabola, moves), inner)
    return [float(price) for price in inner]

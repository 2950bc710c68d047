"""The least expected loss under the size target, exactly: one ratio a matrix out of a few."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor

from secateur.allocate.problem import Problem
from secateur.calibrate.sensitivity import Sensitivity
from secateur.calibrate.statistic import Gram
from secateur.core.allocation import Allocation
from secateur.core.errors import InputError, RatioError
from secateur.core.pattern import check_ratio
from secateur.core.roles import BlockView, Statistic
from secateur.core.shapes import GramMatrix, Weight

__all__ = ["MEASURED", "Knapsack", "cheapest", "choose", "expected_loss", "ratio_losses"]

_GAP = 1e-4
_SECONDS = 60.0
MEASURED = tuple(share / 10 for share in range(1, 10))


def expected_loss(change: Weight, gram: GramMatrix, sensitivity: Float[Tensor, " out"]) -> float:
    """1/2 sum_o G_o E[(dW x)_o^2], nats a token: outputs' mean squared changes by their diagonal Fisher information."""
    squares = ((change @ gram) * change).sum(dim=1) / 2
    return float(squares @ sensitivity) / 2


def ratio_losses(
    weight: Weight, gram: GramMatrix, sensitivity: Float[Tensor, " out"], ratios: Sequence[float]
) -> list[float]:
    """Expected growth of the loss, nats a token, when every row loses its lowest Wanda scores."""
    rank = (weight.abs() * gram.diagonal().sqrt()).argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    found: list[float] = []
    for ratio in ratios:
        change = torch.where(rank < round(ratio * weight.shape[1]), weight, 0)
        found.append(expected_loss(change, gram, sensitivity))
    return found


def cheapest(
    losses: Mapping[str, Sequence[float]], ratios: Sequence[float], sizes: Mapping[str, int], target: float
) -> dict[str, float]:
    """One ratio each, of least summed loss, that together remove at least the target (multiple-choice knapsack).

    Solved by HiGHS to a relative gap of 1e-4, or as well as a minute allows. Raises RatioError when even the highest
    ratios are not enough.
    """
    names, count = list(losses), len(ratios)
    total = sum(sizes[name] for name in names)
    if target > max(ratios):
        raise RatioError(f"ratio {target:g} is above the knapsack's highest, {max(ratios):g}: ask for less")
    cost = np.concatenate([np.asarray(losses[name], dtype=float) for name in names])
    removed = np.concatenate([np.asarray(ratios) * (sizes[name] / total) for name in names])
    once = sparse.kron(sparse.eye(len(names)), np.ones((1, count)))
    found = milp(
        cost / max(float(np.abs(cost).max()), 1e-300),
        integrality=np.ones(len(cost)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(once, 1, 1), LinearConstraint(removed[None], target - 1e-12, np.inf)],
        options={"mip_rel_gap": _GAP, "time_limit": _SECONDS},
    )
    if found.x is None:
        raise RatioError(f"knapsack: no choice of ratios was found for {target:g} ({found.message}): use a wider reach")
    chosen = found.x.reshape(len(names), count).argmax(axis=1)
    return {name: float(ratios[place]) for name, place in zip(names, chosen, strict=True)}


def choose(
    curves: Mapping[str, Sequence[float]], sizes: Mapping[str, int], ratio: float, reach: float, grid: float
) -> Allocation:
    """The best ratios on a grid around the target, from losses at MEASURED ratios; any excess is given back.

    Raises RatioError where no choice meets the target.
    """
    check_ratio(ratio)
    low, high = max(0.0, ratio - reach), max(ratio, min(MEASURED[-1], ratio + reach))
    ratios = [round(float(step), 6) for step in np.arange(low, high + grid / 2, grid)]
    losses = {name: np.interp(ratios, (0.0, *MEASURED), (0.0, *found)).tolist() for name, found in curves.items()}
    chosen = Allocation(cheapest(losses, ratios, sizes, ratio))
    return chosen.balanced(sizes, ratio, low, max(high, ratios[-1]))


@dataclass(frozen=True, kw_only=True)
class Knapsack:
    """Ours: every matrix's loss is measured at nine ratios, 0.1 to 0.9; then the best choice of ratios is exact.

    reach: no ratio is further from the target. grid: steps between the ratios chosen from, losses interpolated.
    What a choice removes beyond the target is given back evenly. Needs the whole model in memory once,
    for the gradients at its layers' outputs.
    """

    reach: float = 0.25
    grid: float = 0.05

    def __post_init__(self) -> None:
        """Refuse fields outside their range."""
        if not 0 < self.reach <= 1 or not 0 < self.grid <= self.reach:
            raise InputError(f"knapsack needs 0 < grid <= reach <= 1, got {self.grid} and {self.reach}")

    @property
    def needs(self) -> tuple[type[Statistic], ...]:
        """The Gram of the inputs, and how much the loss notices the outputs."""
        return (Gram, Sensitivity)

    def watch(self) -> None:
        """What passes between blocks is not looked at."""

    def read(self, view: BlockView) -> dict[str, list[float]]:
        """Every matrix's expected loss at every measured ratio."""
        return {
            name: ratio_losses(weight, view.stats[name][Gram].value, view.stats[name][Sensitivity].value, MEASURED)
            for name, weight in view.weights.items()
        }

    def allocate(self, problem: Problem, ratio: float) -> Allocation:
        """Ratios by layer. Raises RatioError where no choice meets the target."""
        curves = {name: found for block in problem.readings.values() for name, found in block.items()}
        return choose(curves, problem.layers, ratio, self.reach, self.grid)

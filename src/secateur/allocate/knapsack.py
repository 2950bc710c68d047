"""The least expected loss under the size target, exactly: one ratio a matrix out of a few."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from secateur.allocate.problem import Problem
from secateur.calibrate.sensitivity import Sensitivity
from secateur.calibrate.statistic import Gram
from secateur.core.allocation import Allocation
from secateur.core.errors import InputError, NumericalError, RatioError
from secateur.core.pattern import check_ratio
from secateur.core.protocols import BlockView, Statistic
from secateur.core.shapes import GramMatrix, Weight
from secateur.score.wanda import wanda_score

__all__ = ["MEASURED", "Knapsack", "cheapest", "choose", "expected_loss", "ratio_losses"]

Costs = Float[np.ndarray, "parts places"]
Gains = Int[np.ndarray, "parts places"]
Choice = Int[np.ndarray, "_"]
_GAP = 1e-9
_UNIT = 10**6  # ratios are whole numbers of millionths
MEASURED = (*(share / 10 for share in range(1, 10)), 0.95, 1.0)


def expected_loss(change: Weight, gram: GramMatrix, sensitivity: Float[Tensor, " out"]) -> float:
    """Growth of the loss, nats a token: outputs' mean squared changes by their diagonal Fisher information G.

    Formula: dL = 1/2 sum_o G_o E[(dW x)_o^2] [ours; second order, LeCun et al. 1990]
    """
    squares = ((change @ gram) * change).sum(dim=1) / 2  # [out]: E[(dW x)_o^2]; the Gram holds a factor of 2
    return float(squares @ sensitivity) / 2


def ratio_losses(
    weight: Weight, gram: GramMatrix, sensitivity: Float[Tensor, " out"], ratios: Sequence[float]
) -> list[float]:
    """Expected growth of the loss, nats a token, when every row loses its lowest Wanda scores."""
    # Ranks once, then every ratio is a comparison. Wanda's norm is the root of the Gram's diagonal but for a factor.
    rank = wanda_score(weight, gram.diagonal().sqrt()).argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    losses: list[float] = []
    for ratio in ratios:
        change = torch.where(rank < round(ratio * weight.shape[1]), weight, 0)
        losses.append(expected_loss(change, gram, sensitivity))
    return losses


def cheapest(
    losses: Mapping[str, Sequence[float]],
    ratios: Sequence[float] | Sequence[Sequence[float]],
    sizes: Mapping[str, int],
    target: float,
) -> dict[str, float]:
    """One ratio each, of least summed loss, that together remove at least the target (multiple-choice knapsack).

    ratios: those that every part may have, or as many for each part.
    Exact to a relative 1e-9, by Lagrangian bounds and dynamic programming, whatever the machine. Ratios count
    to six decimals. A loss of inf rules a ratio out. Raises RatioError when even the highest ratios are not enough,
    NumericalError on NaN.
    """
    cost = np.array([losses[name] for name in losses], dtype=float)
    if not losses:
        raise RatioError("knapsack: there is nothing to choose from: every block is exempt")
    if np.isnan(cost).any() or np.isneginf(cost).any():
        raise NumericalError("knapsack: a measured loss is not a number: check the weights and the calibration")
    cost /= float(np.abs(cost[np.isfinite(cost)]).max(initial=0.0)) or 1.0  # sums stay within range
    weights = np.array([sizes[name] for name in losses], dtype=np.int64)
    weights //= np.gcd.reduce(weights)  # whole numbers, so that sums are exact; small ones, so that states are few
    table = np.broadcast_to(np.asarray(ratios, dtype=float), cost.shape)  # [parts, places]
    gain = np.round(table * _UNIT).astype(np.int64) * weights[:, None]
    need, total = round(target * _UNIT) * int(weights.sum()), _UNIT * int(weights.sum())
    highest = int(np.where(np.isfinite(cost), gain, 0).max(axis=1).sum())
    if need > highest or not np.isfinite(cost).any(axis=1).all():
        raise RatioError(f"ratio {target:g} is above the knapsack's highest, {highest / total:g}: ask for less")
    cost -= np.where(np.isfinite(cost), cost, np.inf).min(axis=1, keepdims=True)  # none below zero
    price = _price(cost, gain, need)
    chosen = _best(cost, gain, need, price, _repaired(cost, gain, need, _at_price(cost, gain, price)))
    return {name: float(row[place]) for name, row, place in zip(losses, table, chosen.tolist(), strict=True)}


def _at_price(cost: Costs, gain: Gains, price: float) -> Choice:
    """Every part's choice of least cost - price * gain; of equal ones that of most gain."""
    value = cost - price * gain
    choice: Choice = np.where(value <= value.min(axis=1, keepdims=True), gain, -1).argmax(axis=1)
    return choice


def _total(table: Costs | Gains, chosen: Choice) -> Any:
    return table[np.arange(len(table)), chosen].sum()


def _price(cost: Costs, gain: Gains, need: int) -> float:
    """The lowest price of a unit of gain at which free choices gain enough: the best Lagrangian bound."""
    if _total(gain, _at_price(cost, gain, 0.0)) >= need:
        return 0.0
    low, high = 0.0, (float(cost[np.isfinite(cost)].max()) or 1.0) / int(gain.max())
    while _total(gain, _at_price(cost, gain, high)) < need:  # a first guess that may be too low
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if _total(gain, _at_price(cost, gain, middle)) >= need else (middle, high)
    return high


def _repaired(cost: Costs, gain: Gains, need: int, chosen: Choice) -> Choice:
    """Give back what is gained beyond need, the largest saving first, until none fits."""
    chosen, rows = chosen.copy(), np.arange(len(cost))
    while True:
        spare = _total(gain, chosen) - need
        fits = gain[rows, chosen][:, None] - gain <= spare
        saved = np.where(fits, cost[rows, chosen][:, None] - cost, 0.0)
        part, place = np.unravel_index(int(saved.argmax()), saved.shape)
        if saved[part, place] <= 0:
            return chosen
        chosen[part] = place


def _best(cost: Costs, gain: Gains, need: int, price: float, known: Choice) -> Choice:
    """The cheapest choice, by dynamic programming over what the bound does not rule out; `known` is a good one.

    A choice costs the bound, plus every part's excess over its least cost - price * gain, plus the price of
    what it gains beyond need. A state is (gain, cost, excess); one that gains less for more is dropped.
    """
    value = cost - price * gain
    excess = value - value.min(axis=1, keepdims=True)
    upper = float(_total(cost, known))
    # What a choice may lose against the bound and still beat the one that is known.
    room = upper - float(value.min(axis=1).sum()) - price * need - _GAP * abs(upper)
    if room <= 0:
        return known
    places = [np.flatnonzero(row <= room) for row in excess]
    least = [int(gain[part, corners].min()) for part, corners in enumerate(places)]
    most = [int(gain[part, corners].max()) for part, corners in enumerate(places)]
    # Parts with the widest range of gains come first: later bounds are then tight, and fewer states live.
    order = sorted(range(len(cost)), key=lambda part: (len(places[part]) > 1, least[part] - most[part], part))
    states = (np.zeros(1, dtype=np.int64), np.zeros(1), np.zeros(1))
    trail: list[tuple[Choice, Choice]] = []
    lowest, highest = sum(least), sum(most)
    for part in order:
        lowest, highest = lowest - least[part], highest - most[part]
        corners = places[part]
        gained, paid, over = (
            (have[:, None] + table[part, corners]).ravel()
            for have, table in zip(states, (gain, cost, excess), strict=True)
        )
        hope = (gained + highest >= need) & (over + price * np.maximum(gained + lowest - need, 0) <= room)
        # Without this the states would double with every part.
        kept = _undominated(gained, paid, np.flatnonzero(hope))
        states = (gained[kept], paid[kept], over[kept])
        trail.append((kept // len(corners), corners[kept % len(corners)]))
    if not len(states[1]) or float(states[1].min()) >= upper:
        return known
    at, chosen = int(states[1].argmin()), known.copy()
    for part, (parent, place) in zip(reversed(order), reversed(trail), strict=True):
        chosen[part], at = place[at], parent[at]
    return chosen


def _undominated(gained: Choice, paid: Float[np.ndarray, " states"], among: Choice) -> Choice:
    """Those of `among` that no other gains as much as for as little."""
    order = among[np.lexsort((paid[among], -gained[among]))]  # most gain first, then least cost
    lowest = np.minimum.accumulate(paid[order])
    return order[np.r_[True, paid[order][1:] < lowest[:-1]][: len(order)]]


def choose(
    curves: Mapping[str, Sequence[float]],
    sizes: Mapping[str, int],
    ratio: float,
    reach: float | tuple[float, float],
    grid: float,
) -> Allocation:
    """The best ratios on a grid around the target, from losses at MEASURED ratios; any excess is given back.

    Between measured ratios a loss is interpolated. A curve that ends early ends there: higher ratios are not
    chosen. reach: how far ratios go from the target, downwards and upwards. Raises RatioError where no choice meets
    the target.
    """
    check_ratio(ratio)
    down, up = (reach, reach) if isinstance(reach, float | int) else reach
    room = min(down, up, ratio, 1 - ratio)  # steps near 0 and 1 are finer than the grid
    fine = [room * part / 4 for part in (1, 2, 3, 4)]
    below, above = (np.array([*(np.arange(1, int(far / grid + 1e-9) + 1) * grid), *fine]) for far in (down, up))
    ratios = np.unique(np.round(np.clip([ratio, *(ratio - below), *(ratio + above)], 0.0, 1.0), 6))
    losses = {
        name: np.interp(ratios, (0.0, *MEASURED[: len(curve)]), (0.0, *curve), right=np.inf).tolist()
        for name, curve in curves.items()
    }
    chosen = Allocation(cheapest(losses, ratios.tolist(), sizes, ratio))
    return chosen.balanced(sizes, ratio, max(0.0, ratio - down), min(1.0, ratio + up))


@dataclass(frozen=True, kw_only=True)
class Knapsack:
    """Ours: least summed second-order loss, solved exactly.

    reach: no ratio is further from the target; down: none is further below it, where that is not the same.
    grid: steps between the ratios chosen from, losses interpolated;
    near 0 and 1 there are finer ones.
    What a choice removes beyond the target is given back evenly. Needs the whole model in memory once,
    for the gradients at its layers' outputs.
    """

    reach: float = 0.25
    grid: float = 0.05
    down: float | None = None

    def __post_init__(self) -> None:
        """Refuse fields outside their range."""
        if not 0 < self.reach <= 1 or not 0 < self.grid <= self.reach:
            raise InputError(f"knapsack needs 0 < grid <= reach <= 1, got {self.grid} and {self.reach}")
        if self.down is not None and not self.grid <= self.down <= 1:
            raise InputError(f"knapsack needs down from the grid, {self.grid}, to 1, got {self.down}")

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
        curves = {name: losses for block in problem.summaries.values() for name, losses in block.items()}
        down = self.reach if self.down is None else self.down
        return choose(curves, problem.layers, ratio, (down, self.reach), self.grid)

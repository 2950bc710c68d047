"""How much every layer keeps: an exact knapsack over measured times, or the published rule of halves."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from secateur.core.errors import NumericalError, RatioError

__all__ = ["Choice", "align_halves", "cheapest_loss"]

_ROUNDING = 1e-9  # of the limit: the solver's own tolerance is wider, and is taken off before


class Choice(NamedTuple):
    """What one way to leave a layer costs, in milliseconds, and the loss that it is expected to bring."""

    cost: float
    loss: float


def cheapest_loss(layers: Sequence[Sequence[Choice]], limit: float) -> list[int]:
    """One choice for each layer: the least sum of losses whose sum of costs is within the limit.

    Formula: min sum_l loss[l, x_l] subject to sum_l cost[l, x_l] <= limit [multiple-choice knapsack]

    Exact (branch and bound by HiGHS), and never above the limit. Raises RatioError where even the cheapest choices
    cost more.
    """
    cheapest = sum(min(choice.cost for choice in choices) for choices in layers)
    if cheapest > limit * (1 + _ROUNDING):
        raise RatioError(f"a budget of {limit:.3f} ms is out of reach: the cheapest layers take {cheapest:.3f} ms")
    if not layers:
        return []
    costs = np.array([choice.cost for choices in layers for choice in choices])
    losses = np.array([choice.loss for choices in layers for choice in choices])
    owner = np.repeat(np.arange(len(layers)), [len(choices) for choices in layers])
    once = (owner[None, :] == np.arange(len(layers))[:, None]).astype(float)
    scale = max(float(np.abs(losses).max()), 1e-300)
    room = limit
    for _ in range(20):
        constraints = [LinearConstraint(once, 1, 1), LinearConstraint(costs[None, :], -np.inf, room)]
        found = milp(losses / scale, constraints=constraints, integrality=1, bounds=Bounds(0, 1))
        if found.x is None:
            break
        chosen = np.round(found.x).astype(bool)
        if costs[chosen].sum() <= limit * (1 + _ROUNDING):
            places = np.flatnonzero(chosen)
            starts = np.concatenate([[0], np.cumsum([len(choices) for choices in layers])])
            return [int(place - starts[layer]) for layer, place in enumerate(places)]
        room -= max(costs[chosen].sum() - limit, 1e-7 * max(limit, 1e-12))  # within the solver's tolerance, not ours
    return _cheapest(layers, limit)


def _cheapest(layers: Sequence[Sequence[Choice]], limit: float) -> list[int]:
    """The cheapest choices, of equal ones the least loss; all that is left where the limit is theirs."""
    chosen = [own.index(min(own)) for own in layers]
    if sum(own[place].cost for own, place in zip(layers, chosen, strict=True)) > limit * (1 + 1e-6):
        raise NumericalError(f"the knapsack of {len(layers)} layers within {limit} ms was not solved")
    return chosen


def align_halves(kept: Sequence[int], whole: Sequence[int], gains: Sequence[float], step: int = 32) -> list[int]:
    """Kept columns of every layer as multiples of a step: the published rule.

    Formula: beta_l = gain_l / (kept_l mod step); the half with the highest beta is rounded down, the other up
    [HSR; Park et al. 2024]

    gains: milliseconds that rounding a layer down saves. whole: columns that a layer has, which it never exceeds.
    Layers that are aligned stay. Of an odd number the middle one is rounded up.
    """
    over = [own % step for own in kept]
    loose = [layer for layer, rest in enumerate(over) if rest and kept[layer] < whole[layer]]
    ranked = sorted(loose, key=lambda layer: -gains[layer] / over[layer])
    down = set(ranked[: len(ranked) // 2])
    aligned = list(kept)
    for layer in loose:
        floor = kept[layer] - over[layer]
        aligned[layer] = floor if layer in down else min(floor + step, whole[layer])
    return aligned

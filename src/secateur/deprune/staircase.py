"""How much every layer keeps: an exact knapsack over measured times, or the published rule of halves."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from secateur.core.errors import NumericalError, RatioError

__all__ = ["Choice", "align_halves", "cheapest_loss"]

_EXACT = {"mip_rel_gap": 0.0}
_ROUNDING = 1e-9  # of the limit: the solver's own tolerance is wider, and is taken off before


class Choice(NamedTuple):
    """What one way to leave a layer costs, in milliseconds, and the loss that it is expected to bring."""

    cost: float
    loss: float


def cheapest_loss(layers: Sequence[Sequence[Choice]], limit: float) -> list[int]:
    """One choice for each layer: the least sum of losses whose sum of costs is within the limit.

    Formula: min sum_l loss[l, x_l] subject to sum_l cost[l, x_l] <= limit [multiple-choice knapsack]

    Exact (branch and bound by HiGHS), and never above the limit. Choices that lose more than a known plan does are
    left out, so that a huge loss does not hide small ones. Raises RatioError where even the cheapest choices cost more.
    """
    known = _within(layers, limit)
    while True:
        lost = sum(own[place].loss for own, place in zip(layers, known, strict=True))
        least = sum(min(choice.loss for choice in own) for own in layers)
        worth = [  # with the least loss of all others, the choice may still do better than the known plan
            [
                number
                for number, choice in enumerate(own)
                if number == known[layer] or least - min(one.loss for one in own) + choice.loss <= lost
            ]
            for layer, own in enumerate(layers)
        ]
        fewer = [[own[number] for number in numbers] for own, numbers in zip(layers, worth, strict=True)]
        found = _within(fewer, limit)
        better = [numbers[place] for numbers, place in zip(worth, found, strict=True)]
        if sum(own[place].loss for own, place in zip(layers, better, strict=True)) >= lost:
            return known
        known = better


def _within(layers: Sequence[Sequence[Choice]], limit: float) -> list[int]:
    """The same up to what is small beside the largest loss."""
    cheapest = sum(min(choice.cost for choice in choices) for choices in layers)
    if cheapest > limit * (1 + _ROUNDING):
        raise RatioError(f"a budget of {limit:.3f} ms is out of reach: the cheapest layers take {cheapest:.3f} ms")
    if not layers:
        return []
    costs = np.array([choice.cost for choices in layers for choice in choices])
    losses = np.array([choice.loss for choices in layers for choice in choices])
    owner = np.repeat(np.arange(len(layers)), [len(choices) for choices in layers])
    once = (owner[None, :] == np.arange(len(layers))[:, None]).astype(float)
    losses = losses - np.array([min(choice.loss for choice in choices) for choices in layers])[owner]
    scale = max(float(losses.max()), 1e-300)
    room = limit
    for _ in range(20):
        constraints = [LinearConstraint(once, 1, 1), LinearConstraint(costs[None, :], -np.inf, room)]
        found = milp(losses / scale, constraints=constraints, integrality=1, bounds=Bounds(0, 1), options=_EXACT)
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
    Layers that are aligned stay, and every layer keeps a step. Of an odd number the middle one is rounded up. While
    more stays than was kept in all, the next layer by beta is rounded down too, and then those that gain most lose
    further steps.
    """
    over = [own % step for own in kept]
    loose = [layer for layer, rest in enumerate(over) if rest and kept[layer] < whole[layer]]
    ranked = sorted(loose, key=lambda layer: -gains[layer] / over[layer])
    aligned = list(kept)
    for layer in loose:
        aligned[layer] = min(kept[layer] - over[layer] + step, whole[layer])
    for number, layer in enumerate(ranked):
        if kept[layer] >= step and (number < len(ranked) // 2 or sum(aligned) > sum(kept)):
            aligned[layer] = kept[layer] - over[layer]
    while sum(aligned) > sum(kept) and max(aligned) >= 2 * step:  # layers that kept less than a step were given one
        widest = max(range(len(aligned)), key=lambda layer: (aligned[layer] >= 2 * step, gains[layer]))
        aligned[widest] -= step
    return aligned

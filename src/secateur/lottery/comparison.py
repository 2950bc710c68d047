"""The widths that other constructions need for the same target, beside ours, as eps falls."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from secateur.core.errors import InputError
from secateur.lottery.bounds import malach_size, once_size
from secateur.lottery.distributions import Hyperbolic
from secateur.lottery.plan import Lottery, Plan

__all__ = ["ACCURACIES", "Line", "straight_line", "width_factors"]

ACCURACIES = tuple(10.0**-power for power in range(1, 7))
_OURS: dict[str, dict[str, Any]] = {
    "per weight": {"law": "hyperbolic", "sampling": "per-weight"},
    "per input": {"law": "hyperbolic", "sampling": "per-input"},
    "batch": {"law": "hyperbolic", "sampling": "batch"},
    "subset sum per input (Pensia)": {"law": "uniform", "sampling": "per-input"},
    "subset sum, batch": {"law": "uniform", "sampling": "batch"},
}


class Line(NamedTuple):
    """A straight line fitted to points, and the share of their variance it explains."""

    slope: float
    intercept: float
    r2: float


def width_factors(
    make: Callable[[Lottery], Plan], lottery: Lottery, accuracies: Sequence[float]
) -> dict[str, list[float | None]]:
    """Width factors by construction, one for each eps, None where it is refused; make: a plan for what is asked.

    Besides this library's own, those of one pool whose neurons serve one weight each, each category filled as often as
    there are weights, and of Malach et al. 2020.
    """
    widths: dict[str, tuple[dict[str, Any], Callable[[Plan], float]]] = {
        **{name: (settings, lambda plan: plan.factor) for name, settings in _OURS.items()},
        "each neuron once": (_OURS["batch"], lambda plan: _factor(plan, _once)),
        "one pair a weight (Malach)": (_OURS["batch"], lambda plan: _factor(plan, _malach)),
    }

    def factor(settings: dict[str, Any], width: Callable[[Plan], float], eps: float) -> float | None:
        try:
            return float(width(make(replace(lottery, eps=eps, **settings))))
        except InputError:
            return None

    return {name: [factor(*how, eps) for eps in accuracies] for name, how in widths.items()}


def straight_line(x: Sequence[float], y: Sequence[float]) -> Line:
    """Least squares. Raises InputError for fewer than three points.

    Formula: R2 = 1 - mean (y - a x - b)^2 / Var(y) [least squares]
    """
    if len(x) < 3:
        raise InputError(f"a fit needs three points or more, got {len(x)}")
    slope, intercept = np.polyfit(x, y, 1)
    rest = np.asarray(y) - (slope * np.asarray(x) + intercept)
    spread = float(np.var(y))
    return Line(float(slope), float(intercept), 1 - float(np.mean(rest**2)) / spread if spread else 1.0)


def _factor(plan: Plan, width: Callable[[Plan, int], int]) -> float:
    whole = sum(width(plan, number) for number in range(len(plan.layers)))
    return whole / plan.live


def _once(plan: Plan, number: int) -> int:
    layer, delta = plan.layers[number], plan.lottery.delta / len(plan.layers)
    misses = layer.law.misses
    return once_size(1 - float(misses.max()), 4 * len(misses), layer.weights, delta) if len(misses) else 0


def _malach(plan: Plan, number: int) -> int:
    layer, delta = plan.layers[number], plan.lottery.delta / len(plan.layers)
    assert isinstance(layer.law, Hyperbolic)
    if not layer.weights or not layer.law.intervals:
        return 0
    return layer.weights * malach_size(layer.accuracy / layer.law.largest, layer.weights, delta)

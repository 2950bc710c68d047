"""The widths that other constructions need for the same target, beside ours, as eps falls."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from secateur.core.errors import InputError
from secateur.theory.bounds import malach_size, once_size
from secateur.theory.laws import Hyperbolic
from secateur.theory.plan import Lottery, Plan

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
) -> dict[str, list[float]]:
    """Width factors by construction, one for each eps; make: a plan for what is asked for.

    Besides this library's own, those of one pool whose neurons serve one weight each, each category filled as often as
    there are weights, and of Malach et al. 2020. Raises InputError as plans do.
    """
    lines: dict[str, list[float]] = {}
    for eps in accuracies:
        asked = replace(lottery, eps=eps)
        for name, settings in _OURS.items():
            lines.setdefault(name, []).append(make(replace(asked, **settings)).factor)
        plan = make(replace(asked, **_OURS["batch"]))
        lines.setdefault("each neuron once", []).append(_factor(plan, _once))
        lines.setdefault("one pair a weight (Malach)", []).append(_factor(plan, _malach))
    return lines


def straight_line(x: Sequence[float], y: Sequence[float]) -> Line:
    """Least squares. Raises InputError for fewer than three points."""
    if len(x) < 3:
        raise InputError(f"a fit needs three points or more, got {len(x)}")
    slope, intercept = np.polyfit(x, y, 1)
    rest = np.asarray(y) - (slope * np.asarray(x) + intercept)
    spread = float(np.var(y))
    return Line(float(slope), float(intercept), 1 - float(np.mean(rest**2)) / spread if spread else 1.0)


def _factor(plan: Plan, width: Callable[[Plan, int], int]) -> float:
    whole = sum(width(plan, number) for number in range(len(plan.layers)))
    return whole / max(1, sum(layer.live for layer in plan.layers))


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

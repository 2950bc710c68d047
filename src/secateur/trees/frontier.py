"""frontier(program): every best trade of error for cost, from few cuts, since solutions are nested."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from secateur.trees.integer_program import IntegerProgram, Value
from secateur.trees.min_cut import min_cut

__all__ = ["Point", "frontier", "restricted", "within_budget"]

Keep = Bool[np.ndarray, " splits"]
_TINY = 1e-12


class Point(NamedTuple):
    """The largest trade-off at which these splits are best, and what they give."""

    trade_off: float
    value: Value
    keep: Keep


def restricted(program: IntegerProgram, inside: Keep, outside: Keep) -> tuple[IntegerProgram, Keep]:
    """The program of the splits between two nested choices: `inside` stay, all but `outside` go.

    Returns it with which splits it decides. Pairs that `inside` pays for are free.
    """
    free = outside & ~inside
    number = np.cumsum(free) - 1
    counts = np.diff(program.start)
    paid = np.zeros(len(program.pair_cost), bool)
    paid[program.pair[np.repeat(inside, counts)]] = True  # a pair is paid once, so these are free from here on
    owner = np.repeat(np.arange(len(free)), counts)
    edges = free[owner] & ~paid[program.pair]
    names, pair = np.unique(program.pair[edges], return_inverse=True)
    above = program.parent[free]
    start = np.concatenate([[0], np.cumsum(np.bincount(number[owner[edges]], minlength=int(free.sum())))])
    part = IntegerProgram(
        node=program.node[free],
        parent=np.where((above >= 0) & free[above], number[above], -1),
        gain=program.gain[free],
        start=start,
        pair=pair,
        pair_cost=program.pair_cost[names],
        base=program.base - float(program.gain[inside].sum()),
        weight=program.weight,
        trees=program.trees,
    )
    return part, free


def _between(program: IntegerProgram, inside: Keep, outside: Keep, trade_off: float) -> Keep:
    part, free = restricted(program, inside, outside)
    keep = inside.copy()
    keep[free] = min_cut(part, trade_off)
    return keep


def _dearer(value: Value, other: Value) -> bool:
    """Whether costs differ by more than what adding them up in another order does."""
    return value.cost - other.cost > _TINY * value.cost


def _crossing(cheap: Value, dear: Value) -> float:
    """The trade-off at which both are as good."""
    return (cheap.error - dear.error) / (dear.cost - cheap.cost)


def _search(program: IntegerProgram, visit: Callable[[Point, Point], bool]) -> list[Point]:
    """Points from no cost to least error; `visit` says whether to look between two neighbours."""
    nothing = np.zeros(len(program.gain), bool)
    most = min_cut(program, 0.0)  # nothing costs anything: least error
    least = _between(program, nothing, most, np.inf)  # only what costs nothing
    ends = [Point(np.inf, program.value(least), least), Point(0.0, program.value(most), most)]
    corners, todo = [ends[0]], [ends[1]]
    while todo:
        cheap, dear = corners[-1], todo[-1]
        new = None
        if _dearer(dear.value, cheap.value) and visit(cheap, dear):
            trade_off = _crossing(cheap.value, dear.value)
            # Solutions are nested: only what differs is decided.
            keep = _between(program, cheap.keep, dear.keep, trade_off)
            value = program.value(keep)
            both = cheap.value.error + trade_off * cheap.value.cost
            if value.error + trade_off * value.cost < both - _TINY * (abs(both) + ends[0].value.error):
                new = Point(trade_off, value, keep)
        if new is None:
            corners.append(todo.pop())
        else:
            todo.append(new)
    return corners


def frontier(program: IntegerProgram, *, points: int | None = None, budget: float | None = None) -> list[Point]:
    """All corners of the lower hull of (cost, error), dearest last; with `points`, about that many.

    Formula: lambda = (E_cheap - E_dear) / (C_dear - C_cheap), between neighbouring corners [parametric search; ours]

    budget: a cost whose two nearest corners are among them, whatever `points` says. Each
    corner's trade_off is the one it takes over from its cheaper neighbour at; the
    cheapest has inf.
    """
    count = [2]

    def visit(cheap: Point, dear: Point) -> bool:
        count[0] += 1
        near = budget is not None and cheap.value.cost <= budget < dear.value.cost
        return points is None or count[0] <= points or near

    return _tidy(_search(program, visit))


def within_budget(program: IntegerProgram, cost: Callable[[Keep], float], budget: float) -> Point | None:
    """The corner of least error whose `cost`, on data of one's choice, is within the budget; None where none is."""
    points = _tidy(_search(program, lambda cheap, dear: cost(cheap.keep) <= budget < cost(dear.keep)))
    fitting = [point for point in points if cost(point.keep) <= budget]
    return min(fitting, key=lambda point: point.value.error) if fitting else None


def _tidy(points: list[Point]) -> list[Point]:
    """Without repeats, each with the trade-off at which it takes over."""
    kept = points[:1]
    for point in points[1:]:
        if _dearer(point.value, kept[-1].value):
            kept.append(point._replace(trade_off=_crossing(kept[-1].value, point.value)))
        elif point.value.error < kept[-1].value.error:
            kept[-1] = point._replace(trade_off=kept[-1].trade_off)
    return kept

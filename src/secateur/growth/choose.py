"""Pruned forests of several growths, none of which is both dearer and worse than another."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from secateur.core.errors import InputError
from secateur.growth.candidates import Rows, grown_forests, vote_error
from secateur.trees.frontier import frontier
from secateur.trees.integer_program import IntegerProgram, build_program, class_errors, square_errors
from secateur.trees.tree_arrays import Forest, read_forest
from secateur.trees.usage import Prices

__all__ = ["Choice", "best", "choices", "slopes"]

_POINTS = 8  # of every forest's frontier, beside those next to the budget


class Choice(NamedTuple):
    """A pruned forest: what it was pruned from, the splits that stay, mean cost, and error of the vote out of bag."""

    forest: Any
    arrays: Forest
    program: IntegerProgram
    keep: Bool[np.ndarray, " splits"]
    cost: float
    error: float
    words: str


def choices(
    forest: Any, rows: Rows, prices: Prices, how: str, budget: float | None = None, jobs: int | None = None
) -> list[Choice]:
    """Every choice that no other one beats, cheapest first; each growth is pruned on the rows that it was grown on.

    Raises InputError where the vote of no example is known out of bag.
    """
    found: list[Choice] = []
    for forest_, bags, words in grown_forests(forest, rows, prices, how, budget):
        arrays = read_forest(forest_.estimators_)
        leaves = arrays.leaves(rows.x, jobs)
        if rows.classes:
            error = class_errors(arrays, leaves, rows.label, rows.weight)
        else:
            error = square_errors(arrays, leaves, rows.y, rows.weight)
        program = build_program(arrays, leaves, error, prices.group, prices.cost, rows.paid)
        for point in frontier(program, points=_POINTS, budget=budget):
            vote = vote_error(arrays, leaves, program.splits(point.keep, len(arrays.parent)), rows, bags)
            found.append(Choice(forest_, arrays, program, point.keep, point.value.cost, vote, words))
        found = _unbeaten(found)
    if not found:
        raise InputError("no example is out of any tree's bag, so no vote can be judged: use more trees")
    return found


def best(found: Sequence[Choice], *, budget: float | None, trade_off: float) -> Choice | None:
    """The least error within the budget, or the least error + trade_off x cost; None where all cost too much."""
    if budget is None:
        return min(found, key=lambda one: one.error + (trade_off * one.cost if one.cost > 0 else 0.0))
    within = [one for one in found if one.cost <= budget]
    return min(within, key=lambda one: (one.error, one.cost)) if within else None


def slopes(found: Sequence[Choice]) -> list[float]:
    """From which trade-off down every choice is better than the cheaper one before it; inf for the cheapest."""
    steps = pairwise(found)
    return [np.inf, *((one.error - next_.error) / (next_.cost - one.cost) for one, next_ in steps)]


def _unbeaten(found: Sequence[Choice]) -> list[Choice]:
    kept: list[Choice] = []
    for one in sorted((one for one in found if not np.isnan(one.error)), key=lambda one: (one.cost, one.error)):
        if not kept or one.error < kept[-1].error:
            kept.append(one)
    return kept

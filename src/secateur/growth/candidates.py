"""Forests grown in several ways, and what their votes get wrong out of bag; one call takes the best within a budget."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from secateur.core.compiled import compiled
from secateur.core.errors import InputError
from secateur.growth.frugal import bag_weights, bin_features, grow_frugal
from secateur.trees.tree_arrays import Forest
from secateur.trees.usage import Prices

__all__ = ["GROW", "Grown", "Rows", "grown_forests", "vote_error"]

GROW = ("none", "static", "frugal")
_PREFIXES = 10  # sizes of the set of features that all examples buy
_LEVELS = (0.03, 0.1, 0.3, 1.0)  # of the price: the share of the impurity that buying a feature for all must take away


class Rows(NamedTuple):
    """What forests are grown on. label: the class, or 0; number: 1, or the target.

    weight: of errors, class weights included. paid: of costs, with the same sum. classes: whether classes are
    predicted, not numbers.
    """

    x: Float[np.ndarray, "examples features"]
    y: Any
    label: Int[np.ndarray, " examples"]
    number: Float[np.ndarray, " examples"]
    weight: Float[np.ndarray, " examples"]
    paid: Float[np.ndarray, " examples"]
    classes: bool


class Grown(NamedTuple):
    """A fitted forest, the weights of the examples in every tree's bag, and how it was grown, in words."""

    forest: Any
    bags: Float[np.ndarray, "trees examples"]
    words: str


def grown_forests(forest: Any, rows: Rows, prices: Prices, how: str, budget: float | None) -> Iterator[Grown]:
    """Forests of the settings of `forest`: on the features best by importance for their cost, as many as may pay, and
    with frugal growth beside that.

    Prefixes of the features whose price is beyond the budget are left out, but one. Raises InputError on settings
    that such forests do not have.
    """
    _check(forest, how)
    first = _fit(forest, rows, np.ones(rows.x.shape[1], bool))
    bags = bag_weights(first, rows.weight)
    yield Grown(first, bags, "all features")
    order = _ranked(first, prices)
    sizes = _prefixes(order, prices, budget)
    for count in sizes:
        inside = np.isin(prices.group, order[:count])
        if not inside.all():
            fitted = _fit(forest, rows, inside)
            yield Grown(fitted, bag_weights(fitted, rows.weight), f"{count} best for their cost")
    if how == "frugal":
        yield from _frugal((first, bags), rows, prices, order, (0, *sizes[::2]))


def _frugal(
    first: tuple[Any, Any], rows: Rows, prices: Prices, order: Int[np.ndarray, " groups"], free: Sequence[int]
) -> Iterator[Grown]:
    """Forests of frugal trees on the first one's bags, at every price; free: how many features all examples have."""
    template, bags = first
    binned = bin_features(rows.x)
    share = np.bincount(rows.label, rows.weight * rows.number) / rows.weight.sum()
    impurity = np.average(rows.number**2, weights=rows.weight) - (share**2).sum()
    dear = prices.cost[prices.cost > 0]
    unit = impurity * bags.mean() / (dear.mean() if len(dear) else 1.0)
    seed = template.random_state if isinstance(template.random_state, int) else 0
    for level in _LEVELS:
        for count in free:
            owned = np.zeros(len(prices.cost), bool)
            owned[order[:count]] = True
            made = grow_frugal(template, binned, (rows.label, rows.number), bags, prices, (level * unit, owned, seed))
            yield Grown(made, bags, f"frugal at {level:g}, {count} features free")


def _check(forest: Any, how: str) -> None:
    if type(forest) not in (RandomForestClassifier, RandomForestRegressor):
        raise InputError(
            f"grow={how!r} grows random forests, not {type(forest).__name__}: give a RandomForestClassifier or "
            "RandomForestRegressor, or leave grow out"
        )
    plain = {"bootstrap": True, "max_leaf_nodes": None, "min_weight_fraction_leaf": 0.0, "min_impurity_decrease": 0.0}
    plain |= {"warm_start": False, "monotonic_cst": None, "ccp_alpha": 0.0}
    for name, value in plain.items():
        if getattr(forest, name) != value:
            raise InputError(f"grow={how!r} takes no {name}={getattr(forest, name)!r}: leave it at {value!r}")
    if forest.criterion not in ("gini", "squared_error"):
        raise InputError(f"grow={how!r} takes no criterion {forest.criterion!r}: gini, or squared_error")


def _fit(forest: Any, rows: Rows, inside: Bool[np.ndarray, " features"]) -> Any:
    """A forest that splits on these features alone; the others are constant to it."""
    made = clone(forest).set_params(oob_score=False)
    if "class_weight" in made.get_params():
        made.set_params(class_weight=None)  # it is in the rows' weight
    if not inside.all() and made.max_features == "sqrt":
        # Constant features use up draws: as many are drawn as leave sqrt(features inside) on average.
        made.set_params(max_features=min(1.0, float(np.ceil(inside.sum() ** 0.5) / inside.sum())))
    made.fit(np.where(inside, rows.x, 0.0), rows.y, sample_weight=rows.weight)
    own = {name: getattr(forest, name) for name in ("max_features", "class_weight") if name in made.get_params()}
    return made.set_params(**own)


def _ranked(forest: Any, prices: Prices) -> Int[np.ndarray, " groups"]:
    """Groups of features by importance for their cost, best first; free ones before all."""
    importance = np.bincount(prices.group, forest.feature_importances_, len(prices.cost))
    return np.argsort(-importance / np.maximum(prices.cost, 1e-12 * (prices.cost.max() or 1.0)), kind="stable")


def _prefixes(order: Any, prices: Prices, budget: float | None) -> list[int]:
    """Sizes of prefixes, from one feature to all, in a geometric row; of those beyond the budget one."""
    sizes = np.unique(np.geomspace(1, len(order), _PREFIXES).astype(int)).tolist()
    if budget is None:
        return sizes
    paid = np.cumsum(prices.cost[order])
    within = [size for size in sizes if paid[size - 1] <= budget]
    largest = int(np.searchsorted(paid, budget, side="right"))
    return sorted({*within, *([largest] if largest else []), *[size for size in sizes if size not in within][:1]})


def vote_error(
    arrays: Forest, leaves: Int[np.ndarray, "trees examples"], split: Bool[np.ndarray, " nodes"], rows: Rows, bags: Any
) -> float:
    """What the pruned forest's vote gets wrong of examples, each by the trees in whose bag it is not.

    Formula: sum_i m_i [y_i != argmax_k sum_{t: i out of bag} p_tk(i)] / sum_i m_i [Breiman 2001]

    The mean squared distance where numbers are predicted. split: the nodes that split still. Examples in every bag
    do not count; with none left it is NaN.
    """
    stop = _stops(arrays.parent, split)
    out = _votes(arrays.value, stop, leaves, bags)
    voted = out[:, -1] > 0
    if not voted.any():
        return float("nan")
    weight, said = rows.weight[voted], out[voted, :-1]
    if rows.classes:
        wrong = (said.argmax(1) != rows.label[voted]).astype(float)
    else:
        wrong = (said[:, 0] / out[voted, -1] - rows.y[voted]) ** 2
    return float(np.average(wrong, weights=weight)) if weight.sum() > 0 else float("nan")


@compiled
def _stops(parent: Any, split: Any) -> Any:  # pragma: no cover - compiled
    """Of every node, the last one on its path that is still there."""
    stop = np.empty(len(parent), np.int64)
    for node in range(len(parent)):  # children stand after their parents
        above = parent[node]
        stop[node] = node if above < 0 or (stop[above] == above and split[above]) else stop[above]
    return stop


@compiled
def _votes(value: Any, stop: Any, leaves: Any, bags: Any) -> Any:  # pragma: no cover - compiled
    """Summed values of the trees whose bag an example is not in, and how many they are, `[examples, outputs + 1]`."""
    out = np.zeros((leaves.shape[1], value.shape[1] + 1))
    for tree in range(leaves.shape[0]):
        for row in range(leaves.shape[1]):
            if bags[tree, row] == 0:
                said = value[stop[leaves[tree, row]]]
                for place in range(len(said)):
                    out[row, place] += said[place]
                out[row, value.shape[1]] += 1
    return out

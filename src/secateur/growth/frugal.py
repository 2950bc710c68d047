"""Random forests whose splits pay for the features they need; trees come one after another and share what is bought."""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from sklearn.base import is_classifier

from secateur.core.compiled import compiled
from secateur.core.errors import InputError
from secateur.trees.usage import Prices

__all__ = ["Binned", "bag_weights", "bin_features", "grow_frugal"]

_BINS = 64  # at most 256, so that a place fits a byte


@dataclass(frozen=True, eq=False)
class Binned:
    """Features in bins: `place` of every value, feature by feature, and the `edge` above every bin but the last."""

    place: UInt8[np.ndarray, "features examples"]
    edge: Float[np.ndarray, "features edges"]


def bin_features(x: Float[np.ndarray, "examples features"], bins: int = _BINS) -> Binned:
    """Bins of about as many examples each; where there are few values, each has its own.

    Raises InputError on missing values.
    """
    x = np.ascontiguousarray(x, np.float32)  # trees of scikit-learn compare in float32
    if not np.isfinite(x).all():
        raise InputError("grow='frugal' takes no missing values: fill them, or take grow='static' or 'none'")
    place = np.empty(x.shape[::-1], np.uint8)
    edge = np.full((x.shape[1], bins - 1), np.inf, np.float32)
    for feature in range(x.shape[1]):
        values = np.unique(x[:, feature])
        between = (values[:-1] / 2 + values[1:] / 2).astype(np.float32)
        between = np.where(between >= values[1:], values[:-1], between)  # neighbours have nothing between
        if len(between) > bins - 1:
            wanted = np.quantile(x[:, feature], np.arange(1, bins) / bins, method="lower")
            between = between[np.unique(np.minimum(np.searchsorted(values, wanted), len(between) - 1))]
        edge[feature, : len(between)] = between
        place[feature] = np.searchsorted(between, x[:, feature])
    return Binned(place, edge)


def bag_weights(forest: Any, weight: Float[np.ndarray, " examples"]) -> Float[np.ndarray, "trees examples"]:
    """How much every example weighs in the bag of every tree of a fitted random forest; 0 outside it.

    scikit-learn from 1.9 on draws an example as often as it weighs, and each draw then counts 1; earlier ones draw all
    alike, and a draw counts what the example weighs. The weight at the roots tells which.
    """
    if not getattr(forest, "bootstrap", False):
        return np.tile(weight, (len(forest.estimators_), 1))
    counts = [np.bincount(drawn, minlength=len(weight)) for drawn in forest.estimators_samples_]
    roots = [tree.tree_.weighted_n_node_samples[0] for tree in forest.estimators_]
    if np.allclose(roots, [count.sum() for count in counts]):
        return np.stack(counts).astype(float)
    return np.stack(counts) * weight


def grow_frugal(
    template: Any,
    binned: Binned,
    target: tuple[Int[np.ndarray, " examples"], Float[np.ndarray, " examples"]],
    bags: Float[np.ndarray, "trees examples"],
    prices: Prices,
    terms: tuple[float, Bool[np.ndarray, " groups"], int],
) -> Any:
    """A fitted scikit-learn forest like the template, with trees grown here.

    Formula: gain of a split - price * cost * examples at the node that lack its feature [frugal growth; ours]

    The gain is the decrease of impurity (Gini, or squared distance) times the weight at the node. template: a fitted
    random forest, which gives the number of trees, classes and limits. target: the class and 1 of every example, or
    0 and the number. terms: the price, the groups that every example has from the start, and a seed.
    A feature that an example has bought is free to it from then on, in this tree and later ones.
    """
    price, owned, seed = terms
    label, number = target
    outputs = len(template.classes_) if is_classifier(template) else 1
    shift = 0.0 if is_classifier(template) else float(number.mean())  # squares of large numbers would cancel
    number = number - shift
    has = np.repeat(owned[:, None], len(label), 1)
    first = template.estimators_[0]
    limits = np.array(
        [
            first.max_features_,
            _count(template.min_samples_split, len(label)),
            _count(template.min_samples_leaf, len(label)),
            2**31 if template.max_depth is None else template.max_depth,
        ],
        np.int64,
    )
    charge = np.ascontiguousarray(price * prices.cost)
    trees = []
    for tree, bag in zip(template.estimators_, bags, strict=True):
        seed += 1
        shop = prices.group, charge, has
        grown = _grow((binned.place, binned.edge), (label, number, bag), shop, outputs, limits, seed)
        trees.append(_as_tree(tree, grown, shift))
    forest = copy.copy(template)
    forest.estimators_ = trees
    return forest


def _count(limit: int | float, examples: int) -> int:
    """A least number of examples, or a share of them, as scikit-learn has it."""
    return int(limit) if isinstance(limit, int | np.integer) else int(np.ceil(limit * examples))


def _as_tree(template: Any, grown: Any, shift: float) -> Any:
    """A scikit-learn tree with these nodes."""
    feature, threshold, left, right, sums, weight, impurity, count, depth = grown
    state = template.tree_.__getstate__()
    nodes = np.zeros(len(feature), state["nodes"].dtype)
    leaf = left < 0
    nodes["left_child"], nodes["right_child"] = left, right
    nodes["feature"] = np.where(leaf, -2, feature)
    nodes["threshold"] = np.where(leaf, -2.0, threshold)  # what scikit-learn writes at leaves
    nodes["impurity"], nodes["n_node_samples"], nodes["weighted_n_node_samples"] = impurity, count, weight
    values = (sums / weight[:, None] + shift)[:, None, :]  # class shares, or the mean
    made = type(template.tree_)(template.tree_.n_features, template.tree_.n_classes, template.tree_.n_outputs)
    made.__setstate__(
        {**state, "nodes": nodes, "values": np.ascontiguousarray(values), "node_count": len(nodes), "max_depth": depth}
    )
    tree = copy.copy(template)
    tree.tree_ = made
    return tree


@compiled
def _grow(
    binned: Any, target: Any, shop: Any, outputs: int, limits: Any, seed: int
) -> Any:  # pragma: no cover - compiled
    """One tree, level by level; `has` of the shop is changed. Children stand after their parents."""
    place, edge = binned
    draws = np.array([seed], np.uint64)
    features, examples = place.shape
    scratch = np.zeros(256), np.zeros(256, np.int64), np.zeros((256, outputs))
    most = 2 * examples + 1
    feature, threshold = np.full(most, -1, np.int64), np.zeros(most)
    left, right = np.full(most, -1, np.int64), np.full(most, -1, np.int64)
    sums, weights, impurity = np.zeros((most, outputs)), np.zeros(most), np.zeros(most)
    counts, depths = np.zeros(most, np.int64), np.zeros(most, np.int64)
    starts, ends = np.zeros(most, np.int64), np.zeros(most, np.int64)
    rows, spare = np.arange(examples), np.empty(examples, np.int64)
    order = np.arange(features)
    ends[0], nodes, node = examples, 1, 0
    while node < nodes:
        inside = rows[starts[node] : ends[node]]
        weights[node], counts[node], impurity[node] = _summed(inside, target, sums[node])
        if impurity[node] > 1e-12 and counts[node] >= limits[1] and depths[node] < limits[3]:
            chosen, at = _chosen(
                place, inside, (target, sums[node], weights[node]), shop, (order, draws, scratch), limits
            )
            if chosen >= 0:
                front = _parted(place[chosen], at, inside, spare, shop[2][shop[0][chosen]])
                feature[node], threshold[node] = chosen, edge[chosen, at]
                left[node], right[node] = nodes, nodes + 1
                starts[nodes], ends[nodes] = starts[node], starts[node] + front
                starts[nodes + 1], ends[nodes + 1] = starts[node] + front, ends[node]
                depths[nodes : nodes + 2] = depths[node] + 1
                nodes += 2
        node += 1
    steps = feature[:nodes], threshold[:nodes], left[:nodes], right[:nodes]
    return (*steps, sums[:nodes], weights[:nodes], impurity[:nodes], counts[:nodes], depths[:nodes].max())


@compiled
def _summed(inside: Any, target: Any, sums: Any) -> Any:  # pragma: no cover - compiled
    """Add up the bag's examples at a node; their weight, number and impurity."""
    label, number, bag = target
    weight, squares, count = 0.0, 0.0, 0
    for row in inside:
        if bag[row] > 0:
            sums[label[row]] += bag[row] * number[row]
            weight += bag[row]
            squares += bag[row] * number[row] ** 2
            count += 1
    return weight, count, max(squares / weight - (sums**2).sum() / weight**2, 0.0)


@compiled
def _chosen(
    place: Any, inside: Any, node: Any, shop: Any, luck: Any, limits: Any
) -> Any:  # pragma: no cover - compiled
    """The feature and bin of largest gain less price among features in random order; -1 where none pays.

    As many features as the forest draws are looked at, and then others until one pays.
    """
    group, charge, has = shop
    order, draws, scratch = luck
    best, chosen, at, looked = 0.0, -1, -1, 0
    for turn in range(len(order)):
        if looked >= limits[0] and chosen >= 0:
            break
        other = turn + _drawn(draws, len(order) - turn)
        order[turn], order[other] = order[other], order[turn]
        one = order[turn]
        gain, bin_ = _best_split(place[one], inside, node, limits[2], scratch)
        if bin_ >= 0:
            looked += 1
            fee = charge[group[one]]
            if fee > 0:
                gain -= fee * _lacking(has[group[one]], inside)
            if gain > best:
                best, chosen, at = gain, one, bin_
    return chosen, at


@compiled
def _lacking(has: Any, inside: Any) -> int:  # pragma: no cover - compiled
    """How many of the examples inside do not have a feature."""
    lacking = 0
    for row in inside:
        lacking += not has[row]
    return lacking


@compiled
def _drawn(draws: Any, below: int) -> Any:  # pragma: no cover - compiled
    """A whole number from 0, less than `below`, by the next draw of a splitmix generator."""
    draws[0] += np.uint64(0x9E3779B97F4A7C15)
    mixed = draws[0]
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64((mixed ^ (mixed >> np.uint64(31))) % np.uint64(below))


@compiled
def _parted(place: Any, at: int, inside: Any, spare: Any, has: Any) -> Any:  # pragma: no cover - compiled
    """Put the examples up to a bin before the others, all of which have the feature now; how many they are."""
    front, back = 0, 0
    for row in inside:
        has[row] = True
        if place[row] <= at:
            inside[front] = row  # never before the row that is read
            front += 1
        else:
            spare[back] = row
            back += 1
    inside[front:] = spare[:back]
    return front


@compiled
def _best_split(place: Any, inside: Any, node: Any, least: int, scratch: Any) -> Any:  # pragma: no cover - compiled
    """The decrease of impurity times the weight by the best split of one feature, and its bin; -1 where none is."""
    target, total, weight = node
    heavy, count, amount = scratch
    low, high, every = _counted(place, inside, target, scratch)
    whole = (total**2).sum() / weight
    best, chosen = 1e-9 * whole + 1e-300, -1
    beside = np.zeros(len(total))
    before, seen = 0.0, 0
    for at in range(low, high):
        if count[at] > 0:
            before += heavy[at]
            seen += count[at]
            beside += amount[at]
            if min(seen, every - seen) >= least:
                gain = (beside**2).sum() / before + ((total - beside) ** 2).sum() / (weight - before) - whole
                if gain > best:
                    best, chosen = gain, at
    heavy[low : high + 1] = 0.0  # the next feature finds zeros
    count[low : high + 1] = 0
    amount[low : high + 1] = 0.0
    return best, chosen


@compiled
def _counted(place: Any, inside: Any, target: Any, into: Any) -> Any:  # pragma: no cover - compiled
    """Weights, numbers and sums of the bag's examples by bin; the first and last bin, and how many examples."""
    label, number, bag = target
    heavy, count, amount = into
    low, high, every = 256, -1, 0
    for row in inside:
        if bag[row] > 0:
            at = place[row]
            heavy[at] += bag[row]
            count[at] += 1
            amount[at, label[row]] += bag[row] * number[row]
            low, high, every = min(low, at), max(high, at), every + 1
    return low, high, every

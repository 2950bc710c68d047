"""The 0-1 program: error of leaves against the cost of features, as splits that earn and pairs that cost."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from secateur.core.compiled import compiled
from secateur.core.errors import InputError, NumericalError
from secateur.trees.tree_arrays import Forest

__all__ = ["IntegerProgram", "Value", "build_program", "class_errors", "square_errors", "sum_at_nodes"]


@dataclass(frozen=True)
class Value:
    """Mean error of a tree on an example, and mean cost of the features an example needs."""

    error: float
    cost: float


@dataclass(frozen=True, eq=False)
class IntegerProgram:
    """Which splits to keep, so that lost gains and paid costs are least.

    Formula: min_y (E - sum_u g_u y_u) / (N T) + lambda / N sum_p c_p w_p, y_u <= y_parent, y_u <= w_p [Nan et al. 2016]

    node: of every split its node. parent: the split above, -1 at a root. gain: the error
    a split saves, summed over examples. edges, by split (`start`): the pairs of feature
    group and example that the split needs first on the example's path. pair_cost: what
    a pair costs; examples that need the same splits for a group are one pair, as heavy
    as all. base: the error of roots alone, summed. weight: of the examples. Units are sums over examples and trees
    (errors) and over examples (costs).
    """

    node: Int[np.ndarray, " splits"]
    parent: Int[np.ndarray, " splits"]
    gain: Float[np.ndarray, " splits"]
    start: Int[np.ndarray, " splits_1"]
    pair: Int[np.ndarray, " edges"]
    pair_cost: Float[np.ndarray, " pairs"]
    base: float
    weight: float
    trees: int

    def value(self, keep: Bool[np.ndarray, " splits"]) -> Value:
        """Error and cost of keeping these splits."""
        used = np.zeros(len(self.pair_cost), bool)  # [pairs]: paid once, however many splits ask
        used[self.pair[np.repeat(keep, np.diff(self.start))]] = True
        error = (self.base - float(self.gain[keep].sum())) / (self.weight * self.trees)
        return Value(error, float(self.pair_cost[used].sum()) / self.weight)

    def splits(self, keep: Bool[np.ndarray, " splits"], nodes: int) -> Bool[np.ndarray, " nodes"]:
        """Which of a forest's nodes split where these splits are kept."""
        split = np.zeros(nodes, bool)
        split[self.node[keep]] = True
        return split

    def objective(self, keep: Bool[np.ndarray, " splits"], trade_off: float) -> float:
        """Error plus trade_off times cost, of the means; what costs nothing is free at any trade_off."""
        value = self.value(keep)
        return value.error + (trade_off * value.cost if value.cost > 0 else 0.0)

    def prices(self, trade_off: float) -> Float[np.ndarray, " pairs"]:
        """What pairs cost in units of gain, at most twice what all splits can earn: no choice pays more anyway."""
        with np.errstate(over="ignore", invalid="ignore"):
            price = trade_off * self.trees * self.pair_cost
        return np.where(self.pair_cost > 0, np.minimum(price, 2 * np.abs(self.gain).sum() or 1.0), 0.0)


def class_errors(
    forest: Forest,
    leaves: Int[np.ndarray, "trees examples"],
    y: Int[np.ndarray, " examples"],
    weight: Float[np.ndarray, " examples"],
) -> Float[np.ndarray, " nodes"]:
    """Weight of the examples at every node whose class, a column of `value`, is not the node's largest.

    Formula: e_h = sum_{i at h} m_i [y_i != class of h] [Nan et al. 2016]
    """
    shares = np.zeros((len(y), forest.value.shape[1]))
    shares[np.arange(len(y)), y] = weight  # [examples, classes]
    sums = sum_at_nodes(forest.parent, _sum_at_leaves(leaves, shares, len(forest.parent)))  # [nodes, classes]
    return sums.sum(1) - sums[np.arange(len(sums)), forest.value.argmax(1)]


def square_errors(
    forest: Forest,
    leaves: Int[np.ndarray, "trees examples"],
    y: Float[np.ndarray, " examples"],
    weight: Float[np.ndarray, " examples"],
) -> Float[np.ndarray, " nodes"]:
    """Squared distance of the examples at every node from its value, summed by weight.

    Formula: e_h = sum_{i at h} m_i (y_i - v_h)^2 [squared error, as in regression trees]
    """
    shift = float(np.average(y, weights=weight))  # squares of large numbers would cancel
    centred = y - shift
    amounts = np.stack([weight, weight * centred, weight * centred**2], axis=1)
    sums = sum_at_nodes(forest.parent, _sum_at_leaves(leaves, amounts, len(forest.parent)))
    said = forest.value[:, 0] - shift
    return np.maximum(sums[:, 2] - 2 * said * sums[:, 1] + said**2 * sums[:, 0], 0.0)  # sum (y - v)^2, multiplied out


@compiled
def _sum_at_leaves(leaves: Any, amounts: Any, nodes: int) -> Any:  # pragma: no cover - compiled
    sums = np.zeros((nodes, amounts.shape[1]))
    for tree in range(leaves.shape[0]):
        for row in range(leaves.shape[1]):
            sums[leaves[tree, row]] += amounts[row]
    return sums


@compiled
def sum_at_nodes(parent: Any, sums: Any) -> Any:  # pragma: no cover - compiled
    """What is at leaves, `[nodes, amounts]`, added up at every node; in place."""
    for node in range(len(parent) - 1, -1, -1):  # children stand after their parents
        if parent[node] >= 0:
            sums[parent[node]] += sums[node]
    return sums


def build_program(
    forest: Forest,
    leaves: Int[np.ndarray, "trees examples"],
    error: Float[np.ndarray, " nodes"],
    group: Int[np.ndarray, " features"],
    group_cost: Float[np.ndarray, " groups"],
    weight: Float[np.ndarray, " examples"],
) -> IntegerProgram:
    """The program of a forest on examples. error: what every node would add as a leaf, summed over examples.

    Formula: g_u = e_u - e_left(u) - e_right(u) [what a split saves; ours, from Nan et al. 2016]

    Raises InputError on costs below 0.
    """
    if (group_cost < 0).any() or not np.isfinite(group_cost).all():
        raise InputError("feature costs should be finite and at least 0")
    if not np.isfinite(error).all():
        raise NumericalError("errors of the trees are not finite: scale a target of large numbers down, and fit again")
    steps = forest.steps
    inner = np.flatnonzero(steps.feature >= 0)
    number = np.full(len(steps.feature), -1, np.int64)
    number[inner] = np.arange(len(inner))
    gain = error[inner] - error[steps.left[inner]] - error[steps.right[inner]]  # [splits]
    above = forest.parent[inner]
    parent = np.where(above < 0, -1, number[above])
    split_group = np.full(len(steps.feature), -1, np.int32)
    split_group[inner] = group[steps.feature[inner]]
    total = _count_needs(leaves, forest.parent, split_group, len(group_cost))
    splits, pairs = _list_needs(leaves, forest.parent, split_group, len(group_cost), number, total)
    pair, split, cost = _merge(splits, pairs, group_cost, weight, len(inner))
    del splits, pairs  # the largest arrays of all: free them before the sort
    order = np.argsort(split, kind="stable")
    start = np.concatenate([[0], np.cumsum(np.bincount(split, minlength=len(inner)))])
    base = float(error[forest.roots].sum())
    return IntegerProgram(inner, parent, gain, start, pair[order], cost, base, float(weight.sum()), len(forest.roots))


@compiled
def _count_needs(leaves: Any, parent: Any, split_group: Any, groups: int) -> Any:  # pragma: no cover - compiled
    total = 0
    seen = np.full(groups, -1, np.int64)
    for row in range(leaves.shape[1]):
        for tree in range(leaves.shape[0]):
            node = parent[leaves[tree, row]]
            while node >= 0:
                # One number an (example, tree): nothing to reset.
                if seen[split_group[node]] != row * leaves.shape[0] + tree:
                    seen[split_group[node]] = row * leaves.shape[0] + tree
                    total += 1
                node = parent[node]
    return total


@compiled
def _list_needs(
    leaves: Any, parent: Any, split_group: Any, groups: int, number: Any, total: int
) -> Any:  # pragma: no cover - compiled
    """Every (split, pair): the first split on an example's path to test a group; pair = example * groups + group."""
    # Counted first, as lists in compiled code are slow.
    splits, pairs = np.empty(total, np.int32), np.empty(total, np.int64)
    first = np.full(groups, -1, np.int64)
    touched = np.empty(groups, np.int64)
    place = 0
    for row in range(leaves.shape[1]):
        for tree in range(leaves.shape[0]):
            node = parent[leaves[tree, row]]
            count = 0
            while node >= 0:  # upwards: the last one written is the first on the path
                group = split_group[node]
                if first[group] < 0:
                    touched[count] = group
                    count += 1
                first[group] = number[node]
                node = parent[node]
            for index in range(count):
                group = touched[index]
                splits[place] = first[group]
                pairs[place] = row * groups + group
                first[group] = -1
                place += 1
    return splits, pairs


def _mixed(number: Any) -> Any:
    """A fixed random 64-bit number for each (splitmix64)."""
    key = number * np.uint64(0x9E3779B97F4A7C15)
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return key ^ (key >> np.uint64(31))


def _merge(splits: Any, pairs: Any, group_cost: Any, weight: Any, count: int) -> tuple[Any, Any, Any]:
    """Pairs that need the same splits become one; free groups cost nothing and are left out.

    Returns the pair and split of every edge left, and the pairs' costs. Sets of splits
    are told apart by two sums of random 64-bit numbers.
    """
    groups = len(group_cost)
    keys = [_mixed(np.arange(count, dtype=np.uint64) + np.uint64(start)) for start in (1, 2**40)]
    marks = _mark(splits, pairs, keys[0], keys[1], len(weight) * groups)
    names = np.flatnonzero((marks != 0).any(0) & np.tile(group_cost > 0, len(weight)))
    marks = marks[:, names]
    order = np.lexsort(marks)  # equal sets of splits become neighbours
    fresh = np.ones(len(names), bool)
    fresh[1:] = (np.diff(marks[:, order].view(np.int64), axis=1) != 0).any(0)
    number = np.empty(len(names), np.int32)
    number[order] = np.cumsum(fresh) - 1
    paid = group_cost[names % groups] * weight[names // groups]
    cost = np.bincount(number, paid, minlength=int(fresh.sum())).astype(float)
    merged = np.full(len(weight) * groups, -1, np.int32)  # one pair speaks for all that are alike
    spoken = order[fresh]
    merged[names[spoken]] = number[spoken]
    pair = merged[pairs]
    chosen = pair >= 0
    return pair[chosen].astype(np.int64), splits[chosen], cost


@compiled
def _mark(splits: Any, pairs: Any, one: Any, two: Any, count: int) -> Any:  # pragma: no cover - compiled
    """Sums of the splits' numbers for every pair."""
    marks = np.zeros((2, count), np.uint64)
    for edge in range(len(splits)):
        marks[0, pairs[edge]] += one[splits[edge]]
        marks[1, pairs[edge]] += two[splits[edge]]
    return marks

"""Trees as plain arrays, from scikit-learn and back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from joblib import Parallel, delayed, effective_n_jobs

from secateur.core.compiled import compiled
from secateur.core.errors import InputError

__all__ = ["Forest", "Steps", "cut_tree", "join_trees", "read_forest"]


class Steps(NamedTuple):
    """What walking needs: of every node its feature (-1 at a leaf), threshold, side of missing values and children."""

    feature: Int[np.ndarray, " nodes"]
    threshold: Float[np.ndarray, " nodes"]
    missing_left: Bool[np.ndarray, " nodes"]
    left: Int[np.ndarray, " nodes"]
    right: Int[np.ndarray, " nodes"]


@dataclass(frozen=True, eq=False)
class Forest:
    """All trees in a row: node numbers count through; `roots` are the first nodes of the trees.

    value: what a node says, class shares or numbers, `[nodes, outputs]`. single: inputs
    are compared in float32, as most trees of scikit-learn do.
    """

    steps: Steps
    roots: Int[np.ndarray, " trees"]
    value: Float[np.ndarray, "nodes outputs"]
    parent: Int[np.ndarray, " nodes"]
    single: bool = True

    def leaves(
        self, x: Float[np.ndarray, "examples features"], jobs: int | None = None
    ) -> Int[np.ndarray, "trees examples"]:
        """The leaf every example ends in; `jobs` share the trees, by joblib's backend of the moment."""
        x = x.astype(np.float32 if self.single else np.float64)  # thresholds were found on numbers of this precision
        parts = np.array_split(self.roots, min(effective_n_jobs(jobs), len(self.roots)))
        leaves = Parallel(n_jobs=jobs, prefer="threads")(delayed(_walk)(self.steps, part, x) for part in parts)
        return np.concatenate(leaves)


def read_forest(trees: Sequence[Any], columns: Sequence[Any] | None = None, features: int | None = None) -> Forest:
    """Join fitted scikit-learn trees.

    columns: for every tree the features that it was fitted on, of so many features; all of them by default. Raises
    InputError on several outputs, on trees that know different classes, and on trees that lead nowhere.
    """
    parts = [tree.tree_ for tree in trees]
    if any(part.n_outputs != 1 for part in parts):
        raise InputError("the forest predicts several outputs at once: fit one forest for each")
    if len({part.value.shape[2] for part in parts}) > 1:
        raise InputError("some trees of the forest never saw some of the classes: draw larger bags (max_samples)")
    owns = [None] * len(parts) if columns is None else columns
    read = [
        (_steps(part, own), part.value[:, 0, :], part.weighted_n_node_samples)
        for part, own in zip(parts, owns, strict=True)
    ]
    return join_trees(read, single=True, features=trees[0].n_features_in_ if features is None else features)[0]


def _steps(tree: Any, columns: Any) -> Steps:
    left, missing = tree.children_left, tree.missing_go_to_left.astype(bool)
    feature = tree.feature if columns is None else np.asarray(columns)[np.maximum(tree.feature, 0)]
    return Steps(np.where(left < 0, -1, feature), tree.threshold, missing, left, tree.children_right)


def join_trees(
    trees: Sequence[tuple[Steps, Any, Any]], *, single: bool, features: int
) -> tuple[Forest, Float[np.ndarray, " nodes"]]:
    """Trees in a row, and the weights of their nodes, from each one's steps, values `[nodes]` or `[nodes, outputs]`
    and weights; children stand after their parents.

    Raises InputError on trees that cannot be walked: code that is compiled follows these numbers unchecked.
    """
    for number, (tree, value, weight) in enumerate(trees):
        _check_tree(number, tree, value, weight, features)
    counts = [len(steps.feature) for steps, _, _ in trees]
    roots = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int32)
    feature, threshold, missing, left, right = (
        np.concatenate([steps[part] for steps, _, _ in trees]) for part in range(5)
    )
    shift = np.repeat(roots, counts)
    feature = feature.astype(np.int32)
    left, right = (np.where(side < 0, -1, side + shift).astype(np.int32) for side in (left, right))
    parent = np.full(len(left), -1, np.int32)
    inner = np.flatnonzero(left >= 0)
    parent[left[inner]] = parent[right[inner]] = inner
    value = np.concatenate([value.reshape(len(value), -1) for _, value, _ in trees])
    steps = Steps(feature, threshold, missing, left, right)
    return Forest(steps, roots, value, parent, single), np.concatenate([weight for _, _, weight in trees])


def _check_tree(number: int, steps: Steps, value: Any, weight: Any, features: int) -> None:
    nodes = len(steps.feature)
    if nodes == 0 or any(len(part) != nodes for part in (*steps, value, weight)):
        raise InputError(f"tree {number} of the model is damaged: its nodes are not all described")
    sides = np.stack([steps.left, steps.right])
    leaf = (sides < 0).all(0)
    below = sides[:, ~leaf]
    # Compiled code walks these numbers unchecked.
    astray = (sides < -1).any() or (below <= np.flatnonzero(~leaf)).any() or (below >= nodes).any()
    if astray or len(np.unique(below)) < below.size:
        raise InputError(f"tree {number} of the model is damaged: a node leads to itself, or out of the tree")
    if ((steps.feature < 0) != leaf).any() or (steps.feature >= features).any():
        raise InputError(f"tree {number} of the model is damaged: it tests a feature beyond the {features} there are")
    if np.isnan(steps.threshold[~leaf]).any() or not np.isfinite(value).all() or not np.isfinite(weight).all():
        raise InputError(f"tree {number} of the model is damaged: it holds numbers that are not finite")


@compiled
def _walk(steps: Any, roots: Any, x: Any) -> Any:  # pragma: no cover - compiled
    feature, threshold, missing_left, left, right = steps  # unpacked once, outside the loops
    leaves = np.empty((len(roots), len(x)), np.int32)
    for tree in range(len(roots)):
        for row in range(len(x)):
            node = roots[tree]
            while feature[node] >= 0:
                seen = x[row, feature[node]]
                goes_left = missing_left[node] if np.isnan(seen) else seen <= threshold[node]
                node = left[node] if goes_left else right[node]
            leaves[tree, row] = node
    return leaves


def cut_tree(
    tree: Any, split: Bool[np.ndarray, " nodes"], value: Float[np.ndarray, "nodes outputs"] | None = None
) -> Any:
    """A new scikit-learn `Tree` whose nodes split only where told; the others are leaves with their own value.

    value: what the nodes say instead of what the tree has them say.
    """
    state = tree.__getstate__()
    nodes, values = state["nodes"], state["values"]
    if value is not None:
        values = np.ascontiguousarray(value[:, None, :])
    order, depths = [], []
    stack = [(0, 0)]
    while stack:
        node, depth = stack.pop()
        order.append(node)
        depths.append(depth)
        if split[node]:
            stack += [(int(nodes["right_child"][node]), depth + 1), (int(nodes["left_child"][node]), depth + 1)]
    kept = nodes[order].copy()
    number = np.full(len(nodes), -1)
    number[order] = np.arange(len(order))
    inner = split[order]
    for side in ("left_child", "right_child"):
        kept[side] = np.where(inner, number[kept[side]], -1)
    kept["feature"] = np.where(inner, kept["feature"], -2)
    kept["threshold"] = np.where(inner, kept["threshold"], -2.0)  # what scikit-learn writes at leaves
    made = type(tree)(tree.n_features, tree.n_classes, tree.n_outputs)
    made.__setstate__(
        {**state, "nodes": kept, "values": values[order].copy(), "node_count": len(order), "max_depth": max(depths)}
    )
    return made

"""Boosted trees as arrays, and back: what a tree adds is kept near what it added."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)

from secateur.core.compiled import compiled
from secateur.core.errors import InputError
from secateur.forest.lightgbm_xgboost import cut_lightgbm, cut_xgboost, read_lightgbm, read_xgboost
from secateur.trees.integer_program import sum_at_nodes
from secateur.trees.tree_arrays import Forest, Steps, cut_tree, join_trees, read_forest

__all__ = ["check_names", "cut_boosted", "distance_errors", "is_boosted", "read_boosted"]

_BOOSTED = (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)
_REFUSED = {"xgboost": "[]<", "lightgbm": '",:[]{}'}


def is_boosted(model: Any) -> bool:
    """Whether a model's trees add up to its answer: scikit-learn's boosting, LightGBM's and XGBoost's estimators."""
    return isinstance(model, _BOOSTED) or (_package(model) in ("lightgbm", "xgboost") and hasattr(model, "fit"))


def _package(model: Any) -> str:
    return type(model).__module__.partition(".")[0]


def check_names(model: Any, names: Sequence[str] | None) -> None:
    """Raise InputError on names of columns that LightGBM or XGBoost would not take."""
    letters = _REFUSED.get(_package(model), "")
    for name in names or ():
        if set(name) & set(letters):
            raise InputError(f"{_package(model)} takes no column named {name!r}: rename it without any of {letters}")


def read_boosted(model: Any) -> Forest:
    """All trees of all stages in a row; an inner node's value is the mean of its leaves', by training weight.

    Formula: v_h = (m_l v_l + m_r v_r) / (m_l + m_r), l and r the children of h [the mean of its leaves]

    Raises InputError on splits by category, whose sides are sets and no thresholds.
    """
    package = _package(model)
    if package == "lightgbm":
        return _with_means(*read_lightgbm(model))
    if package == "xgboost":
        return _with_means(*read_xgboost(model))
    if hasattr(model, "_predictors"):
        read = [_read_predictor(predictor.nodes) for stage in model._predictors for predictor in stage]
        return _with_means(*join_trees(read, single=False, features=model.n_features_in_))
    trees = list(model.estimators_.ravel())
    weight = np.concatenate([tree.tree_.weighted_n_node_samples for tree in trees])
    return _with_means(read_forest(trees), weight)


def _read_predictor(nodes: Any) -> tuple[Steps, Any, Any]:
    if nodes["is_categorical"].any():
        raise InputError("the model splits by category, and pruning needs thresholds: encode the categories as numbers")
    leaf = nodes["is_leaf"].astype(bool)
    steps = Steps(
        np.where(leaf, -1, nodes["feature_idx"]),
        nodes["num_threshold"].astype(np.float64),
        nodes["missing_go_to_left"].astype(bool),
        np.where(leaf, -1, nodes["left"].astype(np.int64)),
        np.where(leaf, -1, nodes["right"].astype(np.int64)),
    )
    return steps, nodes["value"].astype(np.float64), nodes["count"].astype(np.float64)


def _with_means(forest: Forest, weight: Float[np.ndarray, " nodes"]) -> Forest:
    value = forest.value.copy()
    _mean_upwards(value, weight.copy(), forest.steps.left, forest.steps.right)
    return Forest(forest.steps, forest.roots, value, forest.parent, forest.single)


@compiled
def _mean_upwards(value: Any, weight: Any, left: Any, right: Any) -> None:  # pragma: no cover - compiled
    for node in range(len(value) - 1, -1, -1):  # children stand after their parents
        if left[node] >= 0:
            both = weight[left[node]] + weight[right[node]]
            weight[node] = both
            value[node] = (weight[left[node]] * value[left[node]] + weight[right[node]] * value[right[node]]) / both


def distance_errors(
    forest: Forest, leaves: Int[np.ndarray, "trees examples"], weight: Float[np.ndarray, " examples"]
) -> Float[np.ndarray, " nodes"]:
    """Squared distance between a node's value and what its tree adds to the examples there, summed by weight.

    Formula: e_h = sum_{i at h} m_i (v_leaf(i) - v_h)^2 [ours, for trees that add up]
    """
    sums = np.zeros((len(forest.parent), 3))  # [nodes, 3]: weights, weighted values, weighted squares
    for row in leaves:
        np.add.at(sums[:, 0], row, weight)
    value = forest.value[:, 0]
    sums[:, 1], sums[:, 2] = sums[:, 0] * value, sums[:, 0] * value**2
    sums = sum_at_nodes(forest.parent, sums)
    return np.maximum(sums[:, 2] - 2 * value * sums[:, 1] + value**2 * sums[:, 0], 0.0)


def cut_boosted(model: Any, forest: Forest, split: Bool[np.ndarray, " nodes"]) -> Any:
    """A copy of the model whose trees split only where told."""
    if _package(model) == "lightgbm":
        return cut_lightgbm(model, forest, split)
    if _package(model) == "xgboost":
        return cut_xgboost(model, forest, split)
    made = copy.copy(model)  # shallow: trees are put in anew, the rest is shared
    ends = [*forest.roots[1:].tolist(), len(split)]
    spans = list(zip(forest.roots.tolist(), ends, strict=True))
    if hasattr(model, "_predictors"):
        stages = [list(stage) for stage in model._predictors]
        for number, (first, last) in enumerate(spans):
            stage, place = divmod(number, len(stages[0]))  # a stage has one tree a class
            stages[stage][place] = _cut_histogram(stages[stage][place], split[first:last], forest.value[first:last, 0])
        made._predictors = stages
        return made
    made.estimators_ = model.estimators_.copy()
    for number, (first, last) in enumerate(spans):
        tree = copy.copy(model.estimators_.flat[number])
        tree.tree_ = cut_tree(tree.tree_, split[first:last], forest.value[first:last])
        made.estimators_.flat[number] = tree
    return made


def _cut_histogram(predictor: Any, split: Any, value: Any) -> Any:
    """Nodes below a new leaf stay in the array, where no example comes by."""
    made = copy.copy(predictor)
    nodes = predictor.nodes.copy()
    new = ~nodes["is_leaf"].astype(bool) & ~split
    nodes["is_leaf"] = np.where(new, 1, nodes["is_leaf"])
    nodes["value"] = np.where(new, value, nodes["value"])
    made.nodes = nodes
    return made

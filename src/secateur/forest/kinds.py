"""Which estimators can be pruned, their trees as arrays, and the same estimator with fewer splits."""

import copy
from typing import Any

import numpy as np
from jaxtyping import Bool
from sklearn.ensemble import (
    BaggingClassifier,
    BaggingRegressor,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.tree import BaseDecisionTree

from secateur.forest.boosted import cut_boosted, is_boosted, read_boosted
from secateur.trees.tree_arrays import Forest, cut_tree, read_forest

__all__ = ["arrays_of", "is_prunable", "rebuilt", "trees_of"]

_FORESTS = (
    RandomForestClassifier,
    RandomForestRegressor,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    BaseDecisionTree,
)
_STALE = ("oob_score_", "oob_decision_function_", "oob_prediction_")  # of the forest before it was pruned


def arrays_of(forest: Any) -> Forest:
    """A fitted forest, tree or boosted model as arrays."""
    if is_boosted(forest):
        return read_boosted(forest)
    return read_forest(trees_of(forest), getattr(forest, "estimators_features_", None), forest.n_features_in_)


def is_prunable(forest: Any) -> bool:
    """Whether it is of a kind that can be pruned."""
    if isinstance(forest, (BaggingClassifier, BaggingRegressor)):
        return forest.estimator is None or isinstance(forest.estimator, BaseDecisionTree)
    return isinstance(forest, _FORESTS) or is_boosted(forest)


def trees_of(forest: Any) -> list[Any]:
    """The trees of a fitted scikit-learn forest or tree."""
    return [forest] if isinstance(forest, BaseDecisionTree) else list(forest.estimators_)


def rebuilt(forest: Any, arrays: Forest, split: Bool[np.ndarray, " nodes"]) -> Any:
    """The forest whose other nodes are leaves, as the same estimator."""
    if is_boosted(forest):
        return cut_boosted(forest, arrays, split)
    ends = np.append(arrays.roots[1:], len(split))
    made = []
    for tree, first, last in zip(trees_of(forest), arrays.roots, ends, strict=True):
        small = copy.copy(tree)
        small.tree_ = cut_tree(tree.tree_, split[first:last])
        made.append(small)
    if isinstance(forest, BaseDecisionTree):
        return made[0]
    small = copy.copy(forest)
    small.estimators_ = made
    for name in _STALE:
        vars(small).pop(name, None)
    return small

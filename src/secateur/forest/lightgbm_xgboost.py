"""LightGBM's trees, out of its model text and back, and XGBoost's, out of its JSON and back."""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from secateur.core.errors import InputError
from secateur.trees.tree_arrays import Forest, Steps, join_trees

__all__ = ["cut_lightgbm", "cut_xgboost", "read_lightgbm", "read_xgboost"]

_LIGHT = ("split_feature", "split_gain", "threshold", "decision_type", "internal_value", "internal_weight")
_XGB = (
    "base_weights",
    "default_left",
    "left_children",
    "loss_changes",
    "parents",
    "right_children",
    "split_conditions",
    "split_indices",
    "split_type",
    "sum_hessian",
)
_NO_PARENT = 2147483647


def read_lightgbm(model: Any) -> tuple[Forest, Float[np.ndarray, " nodes"]]:
    """Arrays and training weights of all trees: inner nodes first, then leaves.

    Raises InputError on splits by category, linear leaves, and zeros taken for missing.
    """
    with _damaged("LightGBM"):
        trees = [_read_light(fields) for fields in _blocks(_text(model))[1]]
    return join_trees(trees, single=False, features=model.n_features_in_)


@contextmanager
def _damaged(package: str) -> Iterator[None]:
    """One sentence for a model whose trees are not as the package writes them."""
    try:
        yield
    except (KeyError, ValueError, IndexError, TypeError, OverflowError, MemoryError) as error:
        raise InputError(f"{package}'s trees cannot be read, the model is damaged: {error!r}") from error


def _text(model: Any) -> str:
    text: str = model.booster_.model_to_string()
    return text


def _blocks(text: str) -> tuple[str, list[dict[str, str]], str]:
    """What stands before the trees, every tree's fields, and what stands after."""
    before, *trees = text.split("\nTree=")
    trees[-1], after = trees[-1].split("\nend of trees", 1)
    fields = [dict(line.split("=", 1) for line in tree.splitlines()[1:] if "=" in line) for tree in trees]
    return before, fields, "end of trees" + after


def _numbers(fields: dict[str, str], name: str, kind: type = float) -> Any:
    return np.array(fields.get(name, "").split(), dtype=kind)


def _read_light(fields: dict[str, str]) -> tuple[Steps, Any, Any]:
    """Steps, values and weights of one tree."""
    if fields["num_cat"] != "0" or fields.get("is_linear", "0") != "0":
        raise InputError("the model splits by category or has linear leaves, and pruning needs thresholds and numbers")
    leaves = int(fields["num_leaves"])
    inner = leaves - 1
    kinds = _numbers(fields, "decision_type", int)
    if ((kinds >> 2) & 3 == 1).any():
        raise InputError("the model takes zeros for missing values (zero_as_missing), which pruning does not read")
    threshold = _numbers(fields, "threshold")
    missing = np.where((kinds >> 2) & 3 == 2, kinds & 2 > 0, threshold >= 0)  # else NaN counts as 0
    sides = []
    for side in ("left_child", "right_child"):
        child = _numbers(fields, side, np.int64)
        if (child >= inner).any():  # would be taken for a leaf
            raise ValueError(f"a node leads to {child.max()} of {inner}")
        sides.append(np.concatenate([np.where(child < 0, inner + ~child, child), np.full(leaves, -1)]))
    steps = Steps(
        np.concatenate([_numbers(fields, "split_feature", np.int64), np.full(leaves, -1)]),
        np.concatenate([threshold, np.zeros(leaves)]),
        np.concatenate([missing, np.zeros(leaves)]).astype(bool),
        sides[0],
        sides[1],
    )
    weight = _numbers(fields, "leaf_weight") if inner else np.ones(1)
    value = np.concatenate([np.zeros(inner), _numbers(fields, "leaf_value")])
    return steps, value, np.concatenate([np.zeros(inner), weight])


def cut_lightgbm(model: Any, forest: Forest, split: Bool[np.ndarray, " nodes"]) -> Any:
    """A copy of the model whose trees split only where told."""
    from lightgbm import Booster

    before, trees, after = _blocks(_text(model))
    head = "\n".join(line for line in before.splitlines() if not line.startswith("tree_sizes="))
    ends = [*forest.roots[1:].tolist(), len(split)]
    parts = []
    for number, (fields, first, last) in enumerate(zip(trees, forest.roots.tolist(), ends, strict=True)):
        lines = _cut_light(fields, split[first:last], forest.value[first:last, 0])
        parts.append(f"Tree={number}\n" + "\n".join(f"{name}={value}" for name, value in lines.items()) + "\n\n")
    made = copy.copy(model)
    made._Booster = Booster(model_str=head + "\n\n" + "\n".join(parts) + "\n" + after)
    return made


def _cut_light(fields: dict[str, str], split: Any, value: Any) -> dict[str, str]:
    """The fields of a tree with these splits; inner nodes and leaves are numbered anew, in the order met."""
    steps, _, _ = _read_light(fields)
    inner = int(fields["num_leaves"]) - 1
    nodes: list[int] = []
    leaves: list[int] = []
    stack = [0]
    while stack:
        node = stack.pop()
        (nodes if split[node] else leaves).append(node)
        stack += [int(steps.right[node]), int(steps.left[node])] if split[node] else []
    number = {node: place for place, node in enumerate(nodes)} | {node: ~place for place, node in enumerate(leaves)}
    made = {"num_leaves": str(len(leaves)), "num_cat": "0"}
    for name in (*_LIGHT, "internal_count"):
        given = fields.get(name, "").split()
        made[name] = " ".join(given[node] for node in nodes) if given else ""
    for name, side in (("left_child", steps.left), ("right_child", steps.right)):
        made[name] = " ".join(str(number[int(side[node])]) for node in nodes)
    made["leaf_value"] = " ".join(repr(float(value[node])) for node in leaves)
    for name, of_node in (("leaf_weight", "internal_weight"), ("leaf_count", "internal_count")):
        given, above = fields.get(name, "").split(), fields.get(of_node, "").split()
        made[name] = " ".join((above + given)[node] for node in leaves) if inner else fields.get(name, "")
    return made | {"is_linear": "0", "shrinkage": fields.get("shrinkage", "1")}


def read_xgboost(model: Any) -> tuple[Forest, Float[np.ndarray, " nodes"]]:
    """Arrays and training weights of the trees that predict: early stopping leaves out those after the best round.

    Raises InputError on categories, vector leaves, other boosters, and a value other than NaN taken for missing.
    """
    missing = getattr(model, "missing", None)
    if missing is not None and not np.isnan(missing):
        raise InputError(
            f"the model takes {missing} for missing values (missing={missing}), which pruning does not read: put NaN "
            "in its place in the data, and fit without missing"
        )
    with _damaged("XGBoost"):
        trees = [_read_xgb(tree) for tree in _trees(_document(model))]
    return join_trees(trees, single=True, features=model.n_features_in_)


def _document(model: Any) -> Any:
    """The booster as JSON, up to the round that `predict` stops after."""
    booster, best = model.get_booster(), getattr(model, "best_iteration", None)
    used = booster if best is None else booster[: best + 1]
    return json.loads(used.save_raw("json"))


def _trees(document: Any) -> Any:
    booster = document["learner"]["gradient_booster"]
    if booster["name"] != "gbtree":
        raise InputError(f"booster {booster['name']!r} has no trees that add up as they are: use gbtree")
    return booster["model"]["trees"]


def _read_xgb(tree: Any) -> tuple[Steps, Any, Any]:
    if any(tree["split_type"]) or int(tree["tree_param"]["size_leaf_vector"]) > 1:
        raise InputError(
            "the model splits by category or has vectors as leaves, and pruning needs thresholds and numbers"
        )
    left, right = (np.array(tree[side], np.int64) for side in ("left_children", "right_children"))
    leaf = left < 0
    condition = np.array(tree["split_conditions"], np.float32)
    below = np.nextafter(condition, np.float32(-np.inf))  # left is x < condition, that is x <= the number below it
    steps = Steps(
        np.where(leaf, -1, np.array(tree["split_indices"], np.int64)),
        below.astype(np.float64),
        np.array(tree["default_left"]).astype(bool),
        left,
        right,
    )
    return steps, np.where(leaf, condition, 0).astype(float), np.maximum(np.array(tree["sum_hessian"], float), 1e-16)


def cut_xgboost(model: Any, forest: Forest, split: Bool[np.ndarray, " nodes"]) -> Any:
    """A new model of the same kind whose trees split only where told."""
    document = _document(model)
    ends = [*forest.roots[1:].tolist(), len(split)]
    for tree, first, last in zip(_trees(document), forest.roots.tolist(), ends, strict=True):
        _cut_xgb_(tree, split[first:last], forest.value[first:last, 0])
    made = type(model)(**model.get_params())
    made.load_model(bytearray(json.dumps(document), "utf-8"))
    return made


def _cut_xgb_(tree: Any, split: Any, value: Any) -> None:
    """Number the nodes breadth first: XGBoost takes the right child to stand directly after the left one."""
    order = [0]
    for node in order:
        order += [tree["left_children"][node], tree["right_children"][node]] if split[node] else []
    number = {node: place for place, node in enumerate(order)} | {-1: -1, _NO_PARENT: _NO_PARENT}
    new = [node for node in order if not split[node] and tree["left_children"][node] >= 0]
    for node in new:
        tree["left_children"][node] = tree["right_children"][node] = -1
        tree["split_conditions"][node] = tree["base_weights"][node] = float(value[node])
        tree["split_indices"][node] = tree["default_left"][node] = 0
        tree["loss_changes"][node] = 0.0
    for name in _XGB:
        kept = [tree[name][node] for node in order]
        renamed = name in ("left_children", "right_children", "parents")
        tree[name] = [number[node] for node in kept] if renamed else kept
    tree["tree_param"]["num_nodes"] = str(len(order))

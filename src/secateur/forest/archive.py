"""What a .skops file may hold: only types on a list are built, trees are checked, and equal forests are equal bytes.

skops imports what a file names while it looks at it. So the file is read here first, without an import: every node
has to be on the list, ids go (a node could stand for another), arrays are what their headers say. What skops then
builds is checked once more before anything walks its trees.
"""

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
from sklearn.tree import BaseDecisionTree
from sklearn.tree._tree import Tree

from secateur.core.errors import ModelError
from secateur.forest.boosted import is_boosted
from secateur.forest.kinds import arrays_of, is_prunable, trees_of
from secateur.trees.tree_arrays import Steps, read_forest
from secateur.trees.usage import feature_names, named

__all__ = ["TRUSTED", "check_forest", "plain_archive"]

_SCALARS = "bool bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 str_".split()
_OBJECTS = {
    "sklearn.tree._classes": "DecisionTreeClassifier DecisionTreeRegressor ExtraTreeClassifier ExtraTreeRegressor",
    "sklearn.ensemble._forest": "RandomForestClassifier RandomForestRegressor ExtraTreesClassifier ExtraTreesRegressor",
    "sklearn.ensemble._bagging": "BaggingClassifier BaggingRegressor",
    "sklearn.ensemble._gb": "GradientBoostingClassifier GradientBoostingRegressor",
    "sklearn.ensemble._hist_gradient_boosting.gradient_boosting": "HistGradientBoostingClassifier "
    "HistGradientBoostingRegressor",
    "sklearn.ensemble._hist_gradient_boosting.binning": "_BinMapper",
    "sklearn.ensemble._hist_gradient_boosting.predictor": "TreePredictor",
    "sklearn.dummy": "DummyClassifier DummyRegressor",
    "sklearn.preprocessing._label": "LabelEncoder",
    "sklearn._loss.link": "HalfLogitLink IdentityLink Interval LogLink LogitLink MultinomialLogit",
    "sklearn._loss.loss": "AbsoluteError ExponentialLoss HalfBinomialLoss HalfGammaLoss HalfMultinomialLoss "
    "HalfPoissonLoss HalfSquaredError HuberLoss PinballLoss",
}
_LOSSES = (
    "CyAbsoluteError CyExponentialLoss CyHalfBinomialLoss CyHalfGammaLoss CyHalfMultinomialLoss CyHalfPoissonLoss "
    "CyHalfSquaredError CyHuberLoss CyPinballLoss"
)
_TRUSTED = frozenset(
    [(module, name, "ObjectNode") for module, names in _OBJECTS.items() for name in names.split()]
    + [("sklearn._loss._loss", name, "LossNode") for name in _LOSSES.split()]
    + [("numpy", name, "NdArrayNode") for name in ("ndarray", *_SCALARS)]
    + [("numpy", name, "TypeNode") for name in _SCALARS]
    + [("builtins", name, "TypeNode") for name in ("bool", "float", "int", "str")]
    + [("builtins", name.lower(), f"{name}Node") for name in ("Dict", "List", "Tuple")]
    + [
        ("builtins", "str", "JsonNode"),
        ("numpy.random._generator", "Generator", "RandomGeneratorNode"),
        ("numpy.random.mtrand", "RandomState", "RandomStateNode"),
        ("sklearn.tree._tree", "Tree", "TreeNode"),
    ]
)
TRUSTED = sorted({f"{module}.{name}" for module, name, _ in _TRUSTED})
_KINDS = ("__module__", "__class__", "__loader__")
_SCHEMA = "schema.json"
_MOST_SCHEMA, _MOST_TIMES, _MOST_DEEP = 2**28, 100, 100
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can say


def plain_archive(data: bytes) -> bytes:
    """The same archive with nothing in it but what is needed: no ids, times or padding, arrays named by content.

    Raises ModelError on anything that is not on the list.
    """
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as given, zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as new:
        schema = _read_schema(given, len(data))
        nodes = list(_nodes(schema))
        _refuse_strangers(nodes)
        arrays: dict[str, Any] = {}
        renamed: dict[str, str] = {}
        for node in nodes:
            node.pop("__id__", None)
            if "file" in node and node["file"] not in renamed:
                array = _read_array(given, node["file"])
                data = _array_bytes(array)
                name = renamed[node["file"]] = f"{hashlib.sha256(data).hexdigest()[:32]}.npy"
                if name not in arrays:
                    _write(new, name, data)
                    arrays[name] = array
            if "file" in node:
                node["file"] = renamed[node["file"]]
        _check_states(nodes, arrays)
        _write(new, _SCHEMA, json.dumps(schema, indent=1).encode())
    return made.getvalue()


def _write(new: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, _LONG_AGO)
    entry.create_system, entry.external_attr = 3, 0o600 << 16
    new.writestr(entry, data)


def _read_schema(given: zipfile.ZipFile, size: int) -> Any:
    total = sum(entry.file_size for entry in given.infolist())
    schema = given.getinfo(_SCHEMA).file_size
    if total > _MOST_TIMES * size or schema > _MOST_SCHEMA:
        raise ModelError(f"it unpacks to {total:,} bytes, {schema:,} of them {_SCHEMA}: more than a forest does")
    return json.loads(given.read(_SCHEMA))


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Every node of a schema; raises ModelError where nodes nest deeper than a forest's do."""
    waiting = [(schema, 0)]
    while waiting:
        part, depth = waiting.pop()
        if depth > _MOST_DEEP:
            raise ModelError(f"its parts nest more than {_MOST_DEEP} deep, and those of a forest do not")
        if isinstance(part, dict):
            if any(kind in part for kind in (*_KINDS, "__id__", "__reduce__")):
                yield part
            waiting += [(value, depth + 1) for value in reversed(part.values())]
        elif isinstance(part, list):
            waiting += [(value, depth + 1) for value in reversed(part)]


def _refuse_strangers(nodes: list[dict[str, Any]]) -> None:
    strange = set()
    for node in nodes:
        kind = tuple(node.get(key) for key in _KINDS)
        if not all(isinstance(part, str) for part in kind) or kind not in _TRUSTED:
            strange.add(f"{kind[0]}.{kind[1]}"[:120])
    if strange:
        raise ModelError(
            "it names types that are not scikit-learn's forests or parts of them, and nothing of it was run: "
            + ", ".join(sorted(strange)[:5])
        )


def _read_array(given: zipfile.ZipFile, name: Any) -> Any:
    """An array of the archive, exactly as long as its header says; never pickled objects."""
    data = given.read(name)
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ModelError(f"array {name} is of an unknown version of .npy, {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    needed = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or min(shape, default=0) < 0 or needed != len(data) - stream.tell():
        raise ModelError(f"array {name} says it is {shape} of {dtype}, and holds {len(data) - stream.tell()} bytes")
    return np.load(io.BytesIO(data), allow_pickle=False)


def _array_bytes(array: Any) -> bytes:
    """In .npy; what lies between the fields of a structure is 0, and not what memory held before."""
    if array.dtype.names:
        clean = np.zeros(array.shape, array.dtype)
        for name in array.dtype.names:
            clean[name] = array[name]
        array = clean
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def _check_states(nodes: list[dict[str, Any]], arrays: dict[str, Any]) -> None:
    """What C code or numpy would take on trust: sizes of trees, and kinds and states of random generators."""
    for node in nodes:
        loader = node["__loader__"]
        if loader == "TreeNode":
            args, state = _value(node["__reduce__"]["args"], arrays), _value(node["content"], arrays)
            features, classes, outputs = args
            rows = len(state["nodes"])
            sound = type(features) is type(outputs) is int and 0 < features < 2**31 and outputs == len(classes)
            sound = sound and classes.dtype == np.intp and classes.ndim == 1 and 0 < classes.min() and rows > 0
            sound = sound and state["values"].shape == (rows, outputs, classes.max()) and state["node_count"] == rows
            if not sound or type(state["max_depth"]) is not int or state["nodes"].ndim != 1:
                raise ModelError("a tree's sizes do not fit its arrays")
        elif loader == "RandomGeneratorNode":
            state = {part: _value(node["content"][part], arrays) for part in ("bit_generator", "seed_seq")}
            if state["bit_generator"]["bit_generator"] != "PCG64" or state["seed_seq"].get("pool_size", 4) != 4:
                raise ModelError(f"random generator {str(state['bit_generator']['bit_generator'])[:40]!r} is not PCG64")
        elif loader == "RandomStateNode":
            state = _value(node["content"], arrays)["state"]
            if type(state["pos"]) is not int or not 0 <= state["pos"] <= 624 or state["key"].shape != (624,):
                raise ModelError("a random state is none of numpy's")


def _value(node: dict[str, Any], arrays: dict[str, Any]) -> Any:
    """The plain value of a node of numbers, arrays and containers."""
    loader, content = node["__loader__"], node.get("content")
    if loader == "JsonNode":
        return json.loads(content)  # type: ignore[arg-type]
    if loader == "NdArrayNode":
        return arrays[node["file"]]
    if loader == "DictNode":
        return {key: _value(value, arrays) for key, value in content.items()}  # type: ignore[union-attr]
    return [_value(value, arrays) for value in content]  # type: ignore[union-attr]


def check_forest(forest: Any) -> None:
    """Raise ModelError, or whatever goes wrong, unless its trees lead to leaves and it predicts from them."""
    if not is_prunable(forest):
        raise ModelError(f"it holds a {type(forest).__name__}, and only a fitted forest of trees can be pruned")
    features, names = forest.n_features_in_, feature_names(forest)
    if type(features) is not int or features < 1 or (names is not None and len({*names}) != features):
        raise ModelError("it does not say which features it was fitted on")
    _check_parts(forest)
    outputs = arrays_of(forest).value.shape[1]
    if is_boosted(forest):
        outputs = max(_check_stages(forest), 2) if is_classifier(forest) else 1
    if is_classifier(forest):
        classes = np.asarray(forest.classes_)
        if classes.shape != (outputs,) or (classes[1:] <= classes[:-1]).any():
            raise ModelError("its classes are not those its trees predict")
    if forest.predict(named(np.zeros((1, features)), names)).shape != (1,):
        raise ModelError("it does not predict one value for an example")


def _check_stages(forest: Any) -> int:
    """How many numbers a boosted model predicts; raises ModelError unless every stage adds to each of them."""
    if hasattr(forest, "_predictors"):
        return len(forest._predictors[0])  # a stage of another size is an error of Python when it predicts
    if type(forest.init_) not in (str, DummyClassifier, DummyRegressor):
        raise ModelError(f"its trees start from a {type(forest.init_).__name__}")
    outputs = int(forest.estimators_.shape[1])
    if forest._raw_predict_init(np.zeros((1, forest.n_features_in_), np.float32)).shape != (1, outputs):
        raise ModelError("its stages hold another number of trees than it predicts numbers")
    return outputs


def _check_parts(forest: Any) -> None:
    """Raise ModelError unless every part of a forest is a tree, as deep as it says."""
    if hasattr(forest, "_predictors"):
        if not all(type(predictor) is TreePredictor for stage in forest._predictors for predictor in stage):
            raise ModelError("its stages hold something else than trees")
        return
    held = getattr(forest, "estimators_", None)
    trees = held.ravel().tolist() if isinstance(held, np.ndarray) else trees_of(forest)
    if not all(isinstance(tree, BaseDecisionTree) and type(tree.tree_) is Tree for tree in trees):
        raise ModelError("it holds something else than trees")
    if getattr(forest, "n_estimators", len(trees)) != len(trees) and not hasattr(forest, "init_"):
        raise ModelError(f"it should have {forest.n_estimators} trees and holds {len(trees)}")
    columns = _check_columns(forest, len(trees))
    for number, tree in enumerate(trees):
        depth = _depth(read_forest([tree]).steps)
        seen = forest.n_features_in_ if columns is None else len(columns[number])
        if tree.tree_.max_depth != depth:
            raise ModelError(f"tree {number} is {depth} deep and says {tree.tree_.max_depth}")
        if {tree.n_features_in_, tree.tree_.n_features} != {seen}:
            raise ModelError(f"tree {number} is of {tree.tree_.n_features} features, the forest of others")


def _check_columns(forest: Any, trees: int) -> Any:
    """The features that every tree of bagging was fitted on; None for other forests, whose trees know all."""
    columns = getattr(forest, "estimators_features_", None)
    if columns is None:
        return None
    sound = isinstance(columns, list) and len(columns) == trees
    for own in columns if sound else ():
        sound = sound and isinstance(own, np.ndarray) and own.dtype.kind == "i" and own.ndim == 1
        sound = sound and 0 <= own.min(initial=0) and own.max(initial=0) < forest.n_features_in_
    if not sound:
        raise ModelError("its trees do not say which features they were fitted on")
    return columns


def _depth(steps: Steps) -> int:
    level, depth = np.zeros(1, int), 0
    while len(level := np.concatenate([steps.left[level], steps.right[level]])) and (level := level[level >= 0]).size:
        depth += 1
    return depth

"""What a hostile .skops file can do: nothing but be refused, with the name of what it named."""

import io
import json
import re
import sys
import zipfile

import numpy as np
import pytest
import skops.io
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import (
    BaggingClassifier,
    BaggingRegressor,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeRegressor

from secateur.core.errors import ModelError
from secateur.forest.archive import check_forest, plain_archive
from secateur.forest.pruner import BudgetPruner
from secateur.forest.table import load_forest, save_forest

X, Y = load_iris(return_X_y=True)
XR, YR = load_diabetes(return_X_y=True)
MODELS = [
    RandomForestClassifier(2, random_state=0),
    RandomForestClassifier(2, random_state=np.random.RandomState(0), class_weight={0: 1.0, 1: 2.0, 2: 1.0}),
    DecisionTreeClassifier(random_state=0, ccp_alpha=0.01),
    GradientBoostingClassifier(n_estimators=2, random_state=0),
    GradientBoostingClassifier(n_estimators=2, init="zero", random_state=0),
    HistGradientBoostingClassifier(max_iter=2, random_state=0),
    RandomForestRegressor(2, criterion="absolute_error", random_state=0),
    ExtraTreesRegressor(2, random_state=0),
    ExtraTreeRegressor(random_state=0),
    GradientBoostingRegressor(n_estimators=2, loss="huber", random_state=0),
    HistGradientBoostingRegressor(max_iter=2, loss="quantile", quantile=0.4, random_state=0),
    HistGradientBoostingRegressor(max_iter=2, loss="squared_error", random_state=0),
    BaggingClassifier(n_estimators=2, max_features=0.5, random_state=0),
    BaggingRegressor(DecisionTreeRegressor(max_depth=2), 2, random_state=0),
]


def parts(path):
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    return json.loads(members.pop("schema.json")), members


def write(path, schema, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.writestr("schema.json", schema if isinstance(schema, str) else json.dumps(schema))


def saved(path, model=None):
    model = RandomForestClassifier(2, random_state=0) if model is None else model
    save_forest(model.fit(*((X, Y) if hasattr(model, "predict_proba") else (XR, YR))), path)
    return parts(path)


def nodes(schema, loader):
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if part.get("__loader__") == loader:
                yield part
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def attribute(node, name):
    return node["content"]["content"][name]


def array(data):
    return np.load(io.BytesIO(data))


def packed(values, **settings):
    stream = io.BytesIO()
    np.save(stream, values, **settings)
    return stream.getvalue()


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_what_can_be_pruned_is_read_back_and_is_the_same_bytes(tmp_path, model):
    x, y = (X, Y) if hasattr(model, "predict_proba") else (XR, YR)
    save_forest(model.fit(x, y), tmp_path / "a.skops")
    back = load_forest(tmp_path / "a.skops")
    assert np.array_equal(back.predict(x), model.predict(x)) and type(back) is type(model)
    save_forest(back, tmp_path / "b.skops")
    assert (tmp_path / "a.skops").read_bytes() == (tmp_path / "b.skops").read_bytes()


@pytest.mark.parametrize(
    "model",
    [RandomForestClassifier(3, random_state=0), HistGradientBoostingClassifier(max_iter=3, random_state=0)],
    ids=lambda model: type(model).__name__,
)
def test_equal_runs_are_equal_bytes(tmp_path, model):
    for name in ("a", "b"):
        _noise = [np.full(100_003, 0xFF, np.uint8) for _ in range(20)]  # what memory holds must not show
        del _noise
        save_forest(BudgetPruner(model, trade_off=0.01).fit(X, Y).forest_, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.fixture
def acts(tmp_path, monkeypatch):
    """A module on the path that leaves a mark when it is imported; and whether it was."""
    (tmp_path / "acts_on_import.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w').close()\nclass Thing: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "acts_on_import", raising=False)
    return lambda: (tmp_path / "mark").exists() or "acts_on_import" in sys.modules


STRANGERS = {
    "object": {"__loader__": "ObjectNode", "content": None},
    "type": {"__loader__": "TypeNode"},
    "json": {"__loader__": "JsonNode", "content": "1", "is_json": True},
    "function": {"__loader__": "FunctionNode"},
    "loss": {"__loader__": "LossNode", "content": None},
    "dtype": {"__loader__": "DTypeNode", "content": None},
    "dict": {"__loader__": "DictNode", "content": {}, "key_types": {}},
    "operator": {"__loader__": "OperatorFuncNode", "attrs": None},
    "partial": {"__loader__": "PartialNode", "content": {}},
    "method": {"__loader__": "MethodNode", "content": {"func": "Thing"}},
    "array": {"__loader__": "NdArrayNode", "type": "json", "content": [], "shape": None},
}


@pytest.mark.parametrize("kind", STRANGERS)
@pytest.mark.parametrize("place", ["attribute", "root", "key type", "deep"])
def test_a_module_that_a_file_names_is_not_imported(tmp_path, acts, kind, place):
    schema, members = saved(tmp_path / "m.skops")
    node = STRANGERS[kind] | {"__module__": "acts_on_import", "__class__": "Thing"}
    if place == "root":
        schema = node | {"protocol": 2, "_skops_version": "0.16"}
    elif place == "attribute":
        schema["content"]["content"]["extra"] = node
    elif place == "key type":
        schema["content"]["key_types"]["content"][0] = node
    else:
        next(nodes(schema, "TreeNode"))["__reduce__"]["args"]["content"].append({"hidden": [node]})
    write(tmp_path / "m.skops", schema, members)
    with pytest.raises(ModelError, match=r"acts_on_import\.Thing"):
        load_forest(tmp_path / "m.skops")
    assert not acts()


@pytest.mark.parametrize(
    ("module", "name", "loader"),
    [
        ("sklearn.ensemble._forest", "RandomForestClassifier", "FunctionNode"),
        ("sklearn.utils._testing", "MinimalClassifier", "ObjectNode"),
        ("numpy.testing", "run_module_suite", "FunctionNode"),
        ("numpy", "load", "FunctionNode"),
        ("numpy", "load", "NdArrayNode"),
        ("scipy.sparse._csr", "csr_matrix", "SparseMatrixNode"),
        ("sklearn.ensemble._forest.RandomForestClassifier", "fit", "TypeNode"),
        ("builtins", "eval", "TypeNode"),
        ("builtins", "bytearray", "BytearrayNode"),
        ("sklearn.tree._tree", "Tree", "ObjectNode"),
        (None, None, "CachedNode"),
    ],
)
def test_what_begins_with_a_known_name_is_not_trusted_for_it(tmp_path, module, name, loader):
    schema, members = saved(tmp_path / "m.skops")
    schema["content"]["content"]["extra"] = {"__module__": module, "__class__": name, "__loader__": loader}
    write(tmp_path / "m.skops", schema, members)
    with pytest.raises(ModelError, match=re.escape(f"{module}.{name}")):
        load_forest(tmp_path / "m.skops")


def test_a_forest_with_a_pipeline_in_it_runs_nothing(tmp_path):
    forest, mark = RandomForestClassifier(2, random_state=0).fit(X, Y), tmp_path / "mark"
    write_it = FunctionTransformer(np.save, kw_args={"arr": [1]})
    forest.estimators_ = [make_pipeline(write_it).fit([[0.0]])] * 2
    forest.n_outputs_, forest.predict_proba = str(mark), write_it
    (tmp_path / "m.skops").write_bytes(skops.io.dumps(forest))
    with pytest.raises(ModelError, match=r"numpy\.save, sklearn\.pipeline\.Pipeline, .*FunctionTransformer"):
        load_forest(tmp_path / "m.skops")
    assert [path.name for path in tmp_path.iterdir()] == ["m.skops"]


@pytest.mark.parametrize("model", [LogisticRegression(C=0.01), IsolationForest(n_estimators=2)])
def test_what_is_no_forest_that_can_be_pruned_is_refused(tmp_path, model):
    (tmp_path / "m.skops").write_bytes(skops.io.dumps(model.fit(X, Y)))
    with pytest.raises(ModelError, match=type(model).__name__):
        load_forest(tmp_path / "m.skops")


def test_a_node_cannot_stand_for_another_by_its_id(tmp_path):
    """skops takes a node seen before for every later one of its id, whatever that says."""
    schema, members = saved(tmp_path / "m.skops")
    schema["content"]["content"]["n_outputs_"]["__id__"] = 7
    args = next(nodes(schema, "TreeNode"))["__reduce__"]["args"]["content"]
    schema["content"]["content"]["aaa"] = args[2] | {"content": "99999999", "__id__": 8}
    schema["content"]["content"] = dict(sorted(schema["content"]["content"].items()))
    args[2]["__id__"] = 8
    write(tmp_path / "m.skops", schema, members)
    assert b"__id__" not in plain_archive((tmp_path / "m.skops").read_bytes())


def set_node(name, node, value):
    def change(schema, members):
        state = next(nodes(schema, "TreeNode"))["content"]
        file = state["content"]["nodes"]["file"]
        values = array(members[file]).copy()
        values[name][node] = value
        members[file] = packed(values)

    return change


def set_state(name, value):
    def change(schema, members):
        next(nodes(schema, "TreeNode"))["content"]["content"][name]["content"] = json.dumps(value)

    return change


def set_args(place, value):
    def change(schema, members):
        next(nodes(schema, "TreeNode"))["__reduce__"]["args"]["content"][place]["content"] = json.dumps(value)

    return change


def set_array(part, made):
    def change(schema, members):
        state = next(nodes(schema, "TreeNode"))["content"]["content"]
        members["new.npy"] = packed(made(array(members[state[part]["file"]])))
        state[part]["file"] = "new.npy"

    return change


def set_attribute(name, value):
    def change(schema, members):
        key = {"__class__": "str", "__module__": "builtins", "__loader__": "TypeNode"}
        schema["content"]["key_types"]["content"].append(key)
        schema["content"]["content"][name] = {
            "__class__": "str",
            "__module__": "builtins",
            "__loader__": "JsonNode",
            "content": json.dumps(value),
            "is_json": True,
        }

    return change


def set_random(schema, members):
    state = next(nodes(schema, "RandomStateNode"))["content"]["content"]["state"]
    state["content"]["pos"]["content"] = "2000000000"


@pytest.mark.parametrize(
    "change",
    [
        set_node("left_child", 0, 0),
        set_node("left_child", 0, 10**6),
        set_node("left_child", 0, 2**32 + 1),
        set_node("left_child", 0, -2),
        set_node("right_child", 0, -1),
        set_node("right_child", 0, 1),
        set_node("right_child", 2, 1),
        set_node("feature", 0, 4),
        set_node("feature", 0, 2**32),
        set_node("feature", 0, -7),
        set_node("threshold", 0, np.nan),
        set_state("node_count", 10**7),
        set_state("node_count", -1),
        set_state("max_depth", 0),
        set_state("max_depth", 10**12),
        set_args(0, 10**12),
        set_args(0, 3),
        set_args(2, 10**9),
        set_args(2, -1),
        set_array("values", lambda old: old[:, :, :1]),
        set_array("values", lambda old: old[:1]),
        set_array("values", lambda old: old + np.inf),
        set_array("nodes", lambda old: old[:1]),
        set_array("nodes", lambda old: np.zeros(3)),
        set_attribute("n_features_in_", 2),
        set_attribute("n_features_in_", 10**15),
        set_attribute("n_features_in_", "4"),
        set_attribute("feature_names_in_", ["a"]),
        set_attribute("classes_", [0]),
        set_attribute("classes_", [2, 1, 0]),
        set_attribute("n_classes_", 10**13),
        set_attribute("estimators_", []),
        set_attribute("estimators_", [1, 2]),
        set_attribute("n_estimators", 10**9),
        set_attribute("predict", [1]),
    ],
)
def test_trees_that_lead_nowhere_are_refused_and_never_walked(tmp_path, change):
    schema, members = saved(tmp_path / "m.skops")
    change(schema, members)
    write(tmp_path / "m.skops", schema, members)
    with pytest.raises(ModelError, match=r"m\.skops (is refused|cannot be read)"):
        load_forest(tmp_path / "m.skops")


def test_stages_starts_and_random_states_are_looked_at(tmp_path):
    path = tmp_path / "m.skops"
    schema, members = saved(path, GradientBoostingClassifier(n_estimators=2, random_state=0))
    forest = RandomForestClassifier(2, random_state=0).fit(X, Y)
    save_forest(forest, tmp_path / "init.skops")
    strange, more = parts(tmp_path / "init.skops")
    whole = json.dumps(schema)
    schema["content"]["content"]["init_"] = {key: strange[key] for key in ("__module__", "__class__", "__loader__")} | {
        "content": strange["content"]
    }
    write(path, schema, members | more)
    with pytest.raises(ModelError, match="start from a RandomForestClassifier"):
        load_forest(path)
    schema = json.loads(whole)
    schema["content"]["content"]["init_"]["content"]["content"]["class_prior_"]["file"] = "one.npy"
    write(path, schema, members | {"one.npy": packed(np.ones(1))})
    with pytest.raises(ModelError, match="stages hold another number"):
        load_forest(path)
    schema = json.loads(whole)
    set_random(schema, members)
    write(path, schema, members)
    with pytest.raises(ModelError, match="random state"):
        load_forest(path)
    schema, members = saved(path, HistGradientBoostingClassifier(max_iter=2, random_state=0))
    generator = next(nodes(schema, "RandomGeneratorNode"))["content"]["bit_generator"]
    generator["content"]["bit_generator"]["content"] = '"seed"'
    write(path, schema, members)
    with pytest.raises(ModelError, match="'seed' is not PCG64"):
        load_forest(path)


@pytest.mark.parametrize("name", ["left", "right", "feature_idx", "is_categorical", "is_leaf"])
def test_histogram_trees_are_looked_at_too(tmp_path, name):
    path = tmp_path / "m.skops"
    schema, members = saved(path, HistGradientBoostingClassifier(max_iter=2, random_state=0))
    node = next(node for node in nodes(schema, "ObjectNode") if node["__class__"] == "TreePredictor")
    file = attribute(node, "nodes")["file"]
    values = array(members[file]).copy()
    values[name][0] = 1 if name.startswith("is_") else 2**31 - 1
    if name == "is_leaf":
        values["is_leaf"][:] = 0
    members[file] = packed(values)
    write(path, schema, members)
    with pytest.raises(ModelError, match=r"m\.skops is refused"):
        load_forest(path)


class Loud:
    """Writes when it is unpickled."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


def test_arrays_are_what_their_headers_say_and_never_objects(tmp_path):
    path = tmp_path / "m.skops"
    schema, members = saved(path)
    file = schema["content"]["content"]["classes_"]["file"]
    good = members[file]
    for bad in (
        packed(np.array([Loud()], dtype=object), allow_pickle=True),
        good[:-1],
        good + b"0",
        good.replace(b"(3,)", b"(9,)"),
        packed(np.zeros(1)).replace(b"(1,)", b"(-1,)"),
        packed(np.zeros(10)).replace(b"(10,)", b"(9999999999999,)"[:5]),
        b"",
        b"\x93NUMPY\x09\x00",
    ):
        write(path, schema, members | {file: bad})
        with pytest.raises(ModelError):
            load_forest(path)


def test_bombs_and_deep_nests_are_refused(tmp_path):
    path = tmp_path / "m.skops"
    schema, members = saved(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", json.dumps(schema))
        archive.writestr("bomb", bytes(10**8))
    with pytest.raises(ModelError, match="unpacks to 100"):
        load_forest(path)
    write(path, "[" * 100_000 + "]" * 100_000, members)
    with pytest.raises(ModelError, match="cannot be read"):
        load_forest(path)
    inner = schema["content"]["content"]["n_outputs_"]
    for _ in range(200):
        inner = {"__class__": "list", "__module__": "builtins", "__loader__": "ListNode", "content": [inner]}
    schema["content"]["content"]["n_outputs_"] = inner
    write(path, schema, members)
    with pytest.raises(ModelError, match="nest more than"):
        load_forest(path)
    for broken in ("{}", "[]", "null", "7", '{"__class__": 1}', "\x00"):
        write(path, broken, members)
        with pytest.raises(ModelError):
            load_forest(path)


def flipped(data, draw):
    data = bytearray(data)
    for place in draw.integers(0, len(data), draw.integers(1, 4)):
        data[place] = draw.integers(0, 256)
    return bytes(data)


def test_flipped_bytes_are_a_forest_or_a_sentence(tmp_path):
    path, draw = tmp_path / "m.skops", np.random.default_rng(0)
    for model in (MODELS[0], MODELS[3], MODELS[5]):
        schema, members = saved(path, model)
        whole, text = path.read_bytes(), json.dumps(schema)
        for round_ in range(60):
            if round_ % 3 == 0:
                path.write_bytes(flipped(whole, draw))
            elif round_ % 3 == 1:
                write(path, flipped(text.encode(), draw).decode("latin-1"), members)
            else:  # checksums hold, arrays do not
                write(path, schema, {name: flipped(data, draw) for name, data in members.items()})
            try:
                forest = load_forest(path)
            except ModelError as error:
                assert "m.skops" in str(error) and "\n" not in str(error)
            else:
                check_forest(forest)
                assert forest.predict(X).shape == Y.shape


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none.skops", tmp_path / "a\0b"):
        with pytest.raises(ModelError, match="cannot be read as a skops model"):
            load_forest(path)


@pytest.mark.parametrize("column", [-1, 4, 2**40])
def test_bagging_says_which_features_its_trees_know(tmp_path, column):
    path = tmp_path / "a.skops"
    schema, members = saved(path, BaggingClassifier(n_estimators=1, random_state=0))
    (own,) = attribute(next(nodes(schema, "ObjectNode")), "estimators_features_")["content"]
    members[own["file"]] = packed(np.array([0, 1, 2, column]))
    write(path, schema, members)
    with pytest.raises(ModelError, match="do not say which features they were fitted on"):
        load_forest(path)

import json

import numpy as np
import pandas
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import RandomForestClassifier

from secateur.core.errors import InputError
from secateur.forest.boosted import cut_boosted, read_boosted
from secateur.forest.lightgbm_xgboost import read_lightgbm, read_xgboost
from secateur.forest.pruner import BudgetPruner

X, Y = load_diabetes(return_X_y=True)
FLOWERS = load_iris(return_X_y=True)


@pytest.fixture(autouse=True)
def threads():
    """LightGBM and XGBoost set the process's OpenMP threads, and torch counts them."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def added(arrays, x):
    """What the trees add, by their leaves."""
    return arrays.value[arrays.leaves(x), 0].sum(0)


def make_booster(package, kind):
    module = pytest.importorskip(package)
    if package == "lightgbm":
        settings = dict(n_estimators=8, num_leaves=15, min_child_samples=5, verbose=-1)
        return (module.LGBMRegressor if kind == "regressor" else module.LGBMClassifier)(**settings)
    settings = dict(n_estimators=8, max_depth=4)
    return (module.XGBRegressor if kind == "regressor" else module.XGBClassifier)(**settings)


HOLES = np.where(np.random.default_rng(0).random(X.shape) < 0.1, np.nan, X)


@pytest.mark.parametrize("package", ["lightgbm", "xgboost"])
@pytest.mark.parametrize("x", [X, HOLES], ids=["whole", "missing"])
def test_other_packages_trees_are_read_and_written(package, x):
    model = make_booster(package, "regressor").fit(x, Y)
    before, arrays = model.predict(x), read_boosted(model)
    assert np.ptp(before - added(arrays, x)) < 1e-3
    everything = cut_boosted(model, arrays, arrays.steps.feature >= 0)
    nothing = cut_boosted(model, arrays, np.zeros(len(arrays.parent), bool))
    assert np.allclose(everything.predict(x), before, rtol=1e-5) and np.ptp(nothing.predict(x)) < 1e-3
    keep = (arrays.steps.feature >= 0) & (np.arange(len(arrays.parent)) % 4 > 0)
    keep[arrays.roots] = True
    for node in np.flatnonzero(keep):
        keep[node] &= arrays.parent[node] < 0 or keep[arrays.parent[node]]
    small = cut_boosted(model, arrays, keep)
    said = read_boosted(small)
    assert (said.steps.feature >= 0).sum() == keep.sum()
    assert np.ptp(small.predict(x) - added(said, x)) < 1e-3


@pytest.mark.parametrize("package", ["lightgbm", "xgboost"])
def test_other_packages_classifiers_are_pruned(package):
    x, y = FLOWERS
    whole = BudgetPruner(make_booster(package, "classifier")).fit(x, y)
    small = BudgetPruner(make_booster(package, "classifier"), budget=0.6 * whole.cost_).fit(x, y)
    assert small.expected_cost(x) <= 0.6 * whole.cost_ + 1e-9 and small.score(x, y) > 0.8
    said, bill = small.predict_lazy(lambda feature: x[0, feature])
    assert said == small.predict(x[:1])[0] and bill.cost == small.costs(x[:1])[0]


@pytest.mark.parametrize("depth", [3, 10])
@pytest.mark.parametrize("kind", ["regressor", "binary", "multi-class"])
@pytest.mark.parametrize("package", ["lightgbm", "xgboost"])
def test_a_pruned_model_predicts_what_its_arrays_say_for_one_row_and_for_many(package, kind, depth):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(1200, 6))
    y = x[:, 0] * x[:, 1] + 0.3 * draw.normal(size=1200)
    y = y if kind == "regressor" else np.digitize(y, [0.0] if kind == "binary" else [-0.3, 0.3])
    model = make_booster(package, kind).set_params(max_depth=depth, n_jobs=1)
    pruner = BudgetPruner(model, trade_off=1e-3).fit(x[:1000], y[:1000])
    raw = {"output_margin": True} if package == "xgboost" else {"raw_score": True}
    rows = x[1000:].astype(np.float32)
    many = pruner.forest_.predict(rows, **raw)
    single = np.concatenate([pruner.forest_.predict(row[None], **raw) for row in rows])
    classes = 3 if kind == "multi-class" else 1
    leaves = pruner.arrays_.value[pruner.arrays_.leaves(rows), 0]
    walked = leaves.reshape(-1, classes, len(rows)).sum(0).T  # trees take turns by class
    for said in (many, single):
        apart = said.reshape(len(rows), classes) - walked  # the same for every row: where the model starts
        assert np.ptp(apart, axis=0).max() < 1e-4
    lazy = [pruner.predict_lazy(lambda feature, row=row: float(row[feature]))[0] for row in rows]
    assert np.allclose(lazy, pruner.predict(rows), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:The argument 'eval_set'")
@pytest.mark.parametrize("together", [1, 3])
@pytest.mark.parametrize("kind", ["regressor", "multi-class"])
@pytest.mark.parametrize("package", ["lightgbm", "xgboost"])
def test_trees_that_early_stopping_left_out_are_neither_pruned_nor_billed(package, kind, together):
    x = np.random.default_rng(0).normal(size=(400, 6))
    y = x[:, 0] + 0.5 * x[:, 1] + 1.5 * np.random.default_rng(1).normal(size=400)
    y = y if kind == "regressor" else np.digitize(y, [-0.7, 0.7])
    seen, rest = (x[:300], y[:300]), (x[300:], y[300:])
    model = make_booster(package, kind).set_params(n_estimators=60, n_jobs=1)
    if package == "lightgbm":
        model.fit(*seen, eval_set=[rest], callbacks=[pytest.importorskip("lightgbm").early_stopping(5, verbose=False)])
        rounds, made = model.best_iteration_, 60  # it drops the others itself
    else:
        model.set_params(early_stopping_rounds=5, num_parallel_tree=together, subsample=0.8)
        model.fit(*seen, eval_set=[rest], verbose=False)
        rounds, made = model.best_iteration + 1, model.get_booster().num_boosted_rounds()
    trees = rounds * (3 if kind == "multi-class" else 1) * (together if package == "xgboost" else 1)
    assert rounds < made and len(read_boosted(model).roots) == trees
    whole = BudgetPruner(model).fit(*seen)
    assert np.allclose(whole.predict(x), model.predict(x), rtol=1e-4)
    small = BudgetPruner(model, trade_off=0.05).fit(*seen)
    assert len(small.arrays_.roots) == trees and small.expected_cost(x) <= whole.expected_cost(x)


@pytest.mark.parametrize("missing", [0.0, -999.0, np.inf])
def test_a_value_that_stands_for_a_missing_one_is_refused(missing):
    model = make_booster("xgboost", "regressor").set_params(missing=missing)
    with pytest.raises(InputError, match=rf"takes {missing} for missing values.*put NaN"):
        BudgetPruner(model.fit(X, Y)).fit(X, Y)
    assert read_xgboost(model.set_params(missing=np.nan))[0].steps.feature.size > 100


def test_what_cannot_be_read_of_them_is_refused():
    lightgbm, xgboost = make_booster("lightgbm", "regressor"), make_booster("xgboost", "regressor")
    zeros = lightgbm.set_params(zero_as_missing=True).fit(np.where(X < 0, 0, X), Y)
    with pytest.raises(InputError, match="zeros for missing"):
        read_lightgbm(zeros)
    with pytest.raises(InputError, match="'dart'"):
        read_xgboost(xgboost.set_params(booster="dart").fit(X, Y))


@pytest.mark.filterwarnings("ignore")
def test_what_is_pruned_goes_through_onnx_and_treelite():
    x, y = load_breast_cancer(return_X_y=True)
    forest = BudgetPruner(RandomForestClassifier(8, random_state=0), trade_off=0.02).fit(x, y).forest_
    treelite = pytest.importorskip("treelite")
    compiled = treelite.sklearn.import_model(forest)
    said = treelite.gtil.predict(compiled, x.astype(np.float32))[:, 0]
    assert np.allclose(said, forest.predict_proba(x))
    to_onnx = pytest.importorskip("skl2onnx").to_onnx
    session = pytest.importorskip("onnxruntime").InferenceSession(
        to_onnx(forest, x[:1].astype(np.float32), options={"zipmap": False}).SerializeToString()
    )
    assert np.allclose(session.run(None, {"X": x.astype(np.float32)})[1], forest.predict_proba(x), atol=1e-5)


class Fake:
    """What is asked of a fitted model, with trees of one's choice."""

    n_features_in_ = X.shape[1]

    def __init__(self, said):
        self.said = said
        self.booster_ = self

    def model_to_string(self):
        return self.said

    def get_booster(self):
        return self

    def save_raw(self, kind):
        return self.said.encode()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("left_child", "0 0 0 0 0 0 0 0 0 0 0 0 0 0"),
        ("left_child", "99 1 1 1 1 1 1 1 1 1 1 1 1 1"),
        ("right_child", "-99 1 1 1 1 1 1 1 1 1 1 1 1 1"),
        ("left_child", "1"),
        ("left_child", "nan " * 14),
        ("split_feature", "10 " * 14),
        ("split_feature", "-1 " * 14),
        ("split_feature", "1e300 " * 14),
        ("threshold", "nan " * 14),
        ("threshold", "0.5"),
        ("leaf_value", "inf " * 15),
        ("leaf_value", ""),
        ("num_leaves", "9999999999999"),
        ("num_leaves", "0"),
        ("num_leaves", "-3"),
        ("num_leaves", "many"),
        ("decision_type", "x"),
    ],
)
def test_damaged_trees_of_lightgbm_are_refused_and_never_walked(line, said):
    text = make_booster("lightgbm", "regressor").fit(X, Y).booster_.model_to_string()
    assert read_lightgbm(Fake(text))[0].steps.feature.size > 100
    head, tree, rest = text.partition(f"\n{line}=")
    with pytest.raises(InputError, match="damaged"):
        read_lightgbm(Fake(head + tree + said + rest[rest.index("\n") :]))


@pytest.mark.parametrize("text", ["", "tree", "tree\n\nTree=0\nnum_leaves=2\nend of trees", "\nTree=0\nend of trees"])
def test_text_that_is_no_model_is_refused(text):
    with pytest.raises(InputError, match="damaged"):
        read_lightgbm(Fake(text))
    with pytest.raises(InputError, match="damaged"):
        read_xgboost(Fake("{}" if not text else text))


@pytest.mark.parametrize(
    ("field", "place", "value"),
    [
        ("left_children", 0, 0),
        ("left_children", 0, 10**6),
        ("left_children", 0, 2**40),
        ("left_children", 0, -5),
        ("left_children", 0, "one"),
        ("right_children", 0, 1),
        ("right_children", 0, -1),
        ("split_indices", 0, 10),
        ("split_indices", 0, -1),
        ("split_indices", 0, 2**33),
        ("split_conditions", -1, float("nan")),
        ("split_conditions", 0, []),
        ("sum_hessian", 0, float("inf")),
        ("left_children", slice(3, None), []),
        ("default_left", slice(1, None), []),
    ],
)
def test_damaged_trees_of_xgboost_are_refused_and_never_walked(field, place, value):
    document = json.loads(make_booster("xgboost", "regressor").fit(X, Y).get_booster().save_raw("json"))
    assert read_xgboost(Fake(json.dumps(document)))[0].steps.feature.size > 100
    tree = document["learner"]["gradient_booster"]["model"]["trees"][0]
    tree[field][place] = value
    with pytest.raises(InputError, match="damaged"):
        read_xgboost(Fake(json.dumps(document)))


@pytest.mark.parametrize("method", ["exact", "hist", "approx"])
@pytest.mark.parametrize("policy", ["depthwise", "lossguide"])
def test_trees_that_xgboost_pruned_itself_are_read(method, policy):
    if (method, policy) == ("exact", "lossguide"):
        pytest.skip("xgboost has no such")
    model = make_booster("xgboost", "regressor").set_params(tree_method=method, grow_policy=policy, gamma=30000.0)
    model.fit(X, Y)
    arrays = read_boosted(model)
    assert np.ptp(model.predict(X) - added(arrays, X)) < 1e-2


@pytest.mark.parametrize(("package", "name"), [("xgboost", "a[1]"), ("lightgbm", "a:1")])
def test_names_a_package_does_not_take_are_refused(package, name):
    frame = pandas.DataFrame(X, columns=[name, *map(str, range(9))])
    with pytest.raises(InputError, match=f"{package} takes no column named"):
        BudgetPruner(make_booster(package, "regressor")).fit(frame, Y)

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import RandomForestClassifier

from secateur.core.errors import InputError
from secateur.forest.boosted import cut_boosted, read_boosted
from secateur.forest.outside import read_lightgbm, read_xgboost
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


def outside(package, kind):
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
    model = outside(package, "regressor").fit(x, Y)
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
    whole = BudgetPruner(outside(package, "classifier")).fit(x, y)
    small = BudgetPruner(outside(package, "classifier"), budget=0.6 * whole.cost_).fit(x, y)
    assert small.expected_cost(x) <= 0.6 * whole.cost_ + 1e-9 and small.score(x, y) > 0.8
    said, bill = small.predict_lazy(lambda feature: x[0, feature])
    assert said == small.predict(x[:1])[0] and bill.cost == small.costs(x[:1])[0]


def test_what_cannot_be_read_of_them_is_refused():
    lightgbm, xgboost = outside("lightgbm", "regressor"), outside("xgboost", "regressor")
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

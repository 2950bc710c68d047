import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)

from secateur.core.errors import InputError
from secateur.forest.boosted import cut_boosted, distance_errors, read_boosted
from secateur.forest.pruner import BudgetPruner

X, Y = load_diabetes(return_X_y=True)
FLOWERS = load_iris(return_X_y=True)
REGRESSORS = [
    GradientBoostingRegressor(n_estimators=10, random_state=0),
    HistGradientBoostingRegressor(max_iter=10, min_samples_leaf=5, random_state=0),
]
CLASSIFIERS = [
    GradientBoostingClassifier(n_estimators=5, random_state=0),
    HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=5, random_state=0),
]
named = pytest.mark.parametrize("model", REGRESSORS, ids=lambda model: type(model).__name__)


def added(model, arrays, x):
    """What the trees add, by their leaves."""
    rate = getattr(model, "learning_rate", 1.0) if hasattr(model, "estimators_") else 1.0
    return rate * arrays.value[arrays.leaves(x), 0].sum(0)


@named
def test_the_leaves_of_the_arrays_add_up_to_the_prediction(model):
    model.fit(X, Y)
    arrays = read_boosted(model)
    assert np.ptp(model.predict(X) - added(model, arrays, X)) < 1e-3


@named
def test_keeping_all_splits_is_the_model_and_none_its_mean(model):
    model.fit(X, Y)
    before = model.predict(X)
    arrays = read_boosted(model)
    everything = cut_boosted(model, arrays, arrays.steps.feature >= 0)
    nothing = cut_boosted(model, arrays, np.zeros(len(arrays.parent), bool))
    assert np.allclose(everything.predict(X), before) and np.array_equal(model.predict(X), before)
    assert np.ptp(nothing.predict(X)) < 1e-9 and abs(nothing.predict(X)[0] - Y.mean()) < 5


@named
def test_errors_are_distances_from_what_the_tree_added(model):
    model.fit(X, Y)
    arrays = read_boosted(model)
    leaves, weight = arrays.leaves(X), 1.0 + np.arange(len(X)) % 3
    errors = distance_errors(arrays, leaves, weight)
    for tree, root in enumerate(arrays.roots):
        distance = (arrays.value[leaves[tree], 0] - arrays.value[root, 0]) ** 2
        assert errors[root] == pytest.approx((weight * distance).sum(), rel=1e-6)
    assert np.abs(errors[arrays.steps.feature < 0]).max() < 1e-6 * errors.max()


@pytest.mark.parametrize("model", [*REGRESSORS, *CLASSIFIERS], ids=lambda model: type(model).__name__)
def test_boosted_models_are_pruned_and_predict_lazily(model):
    x, y = (X, Y) if model in REGRESSORS else FLOWERS
    whole = BudgetPruner(model).fit(x, y)
    small = BudgetPruner(model, budget=0.6 * whole.cost_).fit(x, y)
    assert type(small.forest_) is type(model) and small.cost_ <= 0.6 * whole.cost_
    assert small.score(x, y) > 0.3 and np.allclose(whole.predict(x) == model.fit(x, y).predict(x), True)
    for row in range(5):
        said, bill = small.predict_lazy(lambda feature, row=row: x[row, feature])
        assert (
            said == pytest.approx(small.predict(x[row : row + 1])[0]) and bill.cost == small.costs(x[row : row + 1])[0]
        )


def test_splits_by_category_are_refused():
    x, y = load_breast_cancer(return_X_y=True)
    x[:, 0] = np.arange(len(x)) % 4
    model = HistGradientBoostingClassifier(max_iter=30, categorical_features=[0]).fit(x[:, :1], (x[:, 0] > 1) ^ (y > 0))
    with pytest.raises(InputError, match="splits by category"):
        read_boosted(model)

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier, RandomForestRegressor

from secateur.core.errors import InputError
from secateur.growth.candidates import Rows, grown_forests, vote_error
from secateur.growth.frugal import bag_weights
from secateur.trees.tree_arrays import read_forest
from secateur.trees.usage import read_prices


def rows_of(x, y, classes=True):
    number = np.ones(len(y)) if classes else y
    label = y.astype(np.int64) if classes else np.zeros(len(y), np.int64)
    return Rows(x.astype(np.float32), y, label, number, np.ones(len(y)), np.ones(len(y)), classes)


def test_the_vote_of_a_whole_forest_errs_as_scikit_learn_says():
    x, y = load_breast_cancer(return_X_y=True)
    forest = RandomForestClassifier(15, oob_score=True, random_state=0).fit(x.astype(np.float32), y)
    rows, arrays = rows_of(x, y), read_forest(forest.estimators_)
    split = arrays.steps.feature >= 0
    known = ~np.isnan(forest.oob_decision_function_[:, 0])
    expected = np.mean(forest.oob_decision_function_[known].argmax(1) != y[known])
    bags = bag_weights(forest, rows.weight)
    assert vote_error(arrays, arrays.leaves(rows.x), split, rows, bags) == pytest.approx(expected)


def test_the_vote_of_numbers_is_their_mean_squared_distance():
    x, y = load_diabetes(return_X_y=True)
    forest = RandomForestRegressor(40, oob_score=True, random_state=0).fit(x.astype(np.float32), y)
    rows, arrays = rows_of(x, y, classes=False), read_forest(forest.estimators_)
    expected = np.mean((forest.oob_prediction_ - y) ** 2)
    bags = bag_weights(forest, rows.weight)
    split = arrays.steps.feature >= 0
    assert vote_error(arrays, arrays.leaves(rows.x), split, rows, bags) == pytest.approx(expected)


def test_a_forest_cut_to_roots_votes_for_the_mean_of_the_bags():
    x, y = load_breast_cancer(return_X_y=True)
    forest = RandomForestClassifier(15, random_state=0).fit(x.astype(np.float32), y)
    rows, arrays = rows_of(x, y), read_forest(forest.estimators_)
    bags, nothing = bag_weights(forest, rows.weight), np.zeros(len(arrays.parent), bool)
    assert vote_error(arrays, arrays.leaves(rows.x), nothing, rows, bags) == pytest.approx(np.mean(y == 0))
    assert np.isnan(vote_error(arrays, arrays.leaves(rows.x), nothing, rows, np.ones_like(bags)))


@pytest.mark.parametrize("how", ["static", "frugal"])
def test_prefixes_use_their_features_alone_and_stay_near_the_budget(how):
    x, y = load_breast_cancer(return_X_y=True)
    prices = read_prices(30, np.linspace(1, 5, 30))
    forest = RandomForestClassifier(5, random_state=0)
    found = list(grown_forests(forest, rows_of(x, y), prices, how, 6.0))
    static = [one for one in found if "best for their cost" in one.words]
    costs = [sum(prices.cost[read_forest(one.forest.estimators_).steps.feature].tolist()) for one in static]
    assert found[0].words == "all features" and len(static) >= 3 and all(costs)
    used = [{int(f) for f in read_forest(one.forest.estimators_).steps.feature if f >= 0} for one in static]
    assert sum(sum(prices.cost[list(own)]) > 6 for own in used) <= 1
    assert any("frugal" in one.words for one in found) == (how == "frugal")
    assert all(one.forest.max_features == "sqrt" for one in found)
    with_none = list(grown_forests(forest, rows_of(x, y), prices, how, None))
    assert len(with_none) > len(found)


@pytest.mark.parametrize(
    "forest",
    [
        ExtraTreesClassifier(),
        RandomForestClassifier(bootstrap=False),
        RandomForestClassifier(max_leaf_nodes=4),
        RandomForestClassifier(criterion="entropy"),
        RandomForestRegressor(criterion="absolute_error"),
        RandomForestClassifier(ccp_alpha=0.1),
    ],
)
def test_forests_that_cannot_be_grown_so_are_refused(forest):
    x, y = load_breast_cancer(return_X_y=True)
    with pytest.raises(InputError, match="grow='frugal'"):
        next(grown_forests(forest, rows_of(x, y), read_prices(30), "frugal", None))


def test_one_class_is_voted_for_without_error():
    x = load_breast_cancer(return_X_y=True)[0][:60]
    y = np.full(60, 7)
    forest = RandomForestClassifier(15, random_state=0).fit(x.astype(np.float32), y)
    rows = rows_of(x, y)._replace(label=np.zeros(60, np.int64))
    arrays, bags = read_forest(forest.estimators_), bag_weights(forest, rows.weight)
    assert vote_error(arrays, arrays.leaves(rows.x), np.zeros(len(arrays.parent), bool), rows, bags) == 0.0

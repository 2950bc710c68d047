import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from secateur.core.errors import InputError
from secateur.growth import frugal
from secateur.growth.frugal import bag_weights, bin_features, grow_frugal
from secateur.trees.tree_arrays import read_forest
from secateur.trees.usage import read_prices, used_features


def data(seed=0, rows=80, features=5, classes=3):
    draw = np.random.default_rng(seed)
    x = draw.integers(0, 12, (rows, features)).astype(np.float32) / 4
    y = (x[:, 0] + x[:, 1] + draw.random(rows) > 3).astype(np.int64) + (x[:, 2] > 2) * (classes > 2)
    return x, y


def grown(x, y, *, price=0.0, owned=None, forest=None, costs=None):
    forest = RandomForestClassifier(6, random_state=0) if forest is None else forest
    template = forest.fit(x, y)
    prices = read_prices(x.shape[1], costs)
    free = np.zeros(len(prices.cost), bool) if owned is None else owned
    if hasattr(template, "classes_"):
        target = np.searchsorted(template.classes_, y).astype(np.int64), np.ones(len(y))
    else:
        target = np.zeros(len(y), np.int64), y
    bags = bag_weights(template, np.ones(len(y)))
    return grow_frugal(template, bin_features(x), target, bags, prices, (price, free, 0)), bags


def test_bins_split_values_as_thresholds_do():
    for seed in range(20):
        x = np.random.default_rng(seed).normal(size=(300, 3)).astype(np.float32)
        x[:, 1] = np.round(x[:, 1], 1)
        x[:, 2] = np.nextafter(np.float32(1), np.float32(2)) if seed % 2 else 1.0
        x[::2, 2] = 1.0
        binned = bin_features(x, 8)
        for feature in range(3):
            for at in range(7):
                edge = binned.edge[feature, at]
                if np.isfinite(edge):
                    assert np.array_equal(x[:, feature] <= edge, binned.place[feature] <= at)
        assert len(np.unique(binned.place[0])) == 8 and len(np.unique(binned.place[2])) == len(np.unique(x[:, 2]))


def gini(labels, weight, classes):
    total = np.bincount(labels, weight, classes)
    return weight.sum() - (total**2).sum() / weight.sum() if weight.sum() else 0.0


def test_the_best_split_is_the_best_of_all_by_plain_loops():
    for seed in range(200):
        draw = np.random.default_rng(seed)
        rows, classes = int(draw.integers(2, 12)), int(draw.integers(2, 4))
        place = draw.integers(0, 4, rows).astype(np.uint8)
        label, bag = draw.integers(0, classes, rows), draw.integers(0, 3, rows).astype(float)
        if bag.sum() == 0:
            continue
        total = np.bincount(label, bag, classes).astype(float)
        scratch = np.zeros(256), np.zeros(256, np.int64), np.zeros((256, classes))
        node = (label, np.ones(rows), bag), total, bag.sum()
        found, at = frugal._best_split(place, np.arange(rows), node, 1, scratch)
        assert not any(part.any() for part in scratch)
        gains = {}
        for edge in range(4):
            low = place <= edge
            if bag[low].sum() and bag[~low].sum():
                parts = sum(gini(label[side], bag[side], classes) for side in (low, ~low))
                gains[edge] = gini(label, bag, classes) - parts
        best = max(gains.values(), default=0.0)
        if best < 1e-9:
            assert at == -1
        else:
            assert found == pytest.approx(best) and gains[at] == pytest.approx(best)


@pytest.mark.parametrize("seed", range(5))
def test_without_a_price_trees_fit_their_bags_and_are_scikit_learns(seed):
    x, y = data(seed)
    forest, bags = grown(x, y)
    arrays = read_forest(forest.estimators_)  # checked node by node
    assert np.allclose(forest.predict_proba(x), arrays.value[arrays.leaves(x)].mean(0))
    whole = RandomForestClassifier(6, random_state=0).fit(x, y)
    for tree, bag, known in zip(forest.estimators_, bags, whole.estimators_, strict=True):
        inside = bag > 0
        own, theirs = (one.score(x[inside], y[inside], sample_weight=bag[inside]) for one in (tree, known))
        assert own == pytest.approx(theirs)  # both split until nothing can be told apart
        assert tree.tree_.n_node_samples[0] == inside.sum()
        assert tree.tree_.weighted_n_node_samples[0] == bag.sum()
        shares = np.bincount(y, bag, 3 if y.max() == 2 else 2) / bag.sum()
        assert np.allclose(tree.tree_.value[0, 0], shares)


def test_numbers_are_fitted_too():
    x, y = load_diabetes(return_X_y=True)
    x = x.astype(np.float32)
    template = RandomForestRegressor(10, random_state=0)
    forest, bags = grown(x, y, forest=template)
    means = [tree.predict(x)[bag > 0] for tree, bag in zip(forest.estimators_, bags, strict=True)]
    assert np.mean([np.corrcoef(mean, y[bag > 0])[0, 1] for mean, bag in zip(means, bags, strict=True)]) > 0.95


def test_a_price_beyond_any_gain_leaves_only_what_is_owned_or_free():
    x, y = load_breast_cancer(return_X_y=True)
    x, costs, owned = x.astype(np.float32), np.ones(30), np.zeros(30, bool)
    owned[[3, 7]], costs[20] = True, 0.0
    forest, _ = grown(x, y, price=1e9, owned=owned, costs=costs)
    used = used_features(read_forest(forest.estimators_), x).any(0)
    assert set(np.flatnonzero(used)) <= {3, 7, 20} and used[[3, 7]].any()
    assert (grown(x, y, price=1e9, costs=np.ones(30))[0].estimators_[0].tree_.node_count) == 1


def test_what_is_bought_is_free_from_then_on():
    """At a price that some pay, later trees ask for little that earlier ones did not."""
    x, y = load_breast_cancer(return_X_y=True)
    x = x.astype(np.float32)
    forest = RandomForestClassifier(20, random_state=0)
    dear, _ = grown(x, y, price=0.1, forest=forest)
    free, _ = grown(x, y, price=0.0, forest=forest)
    need = [used_features(read_forest(one.estimators_), x).sum(1).mean() for one in (dear, free)]
    assert need[0] < 0.7 * need[1]


def test_limits_of_the_forest_hold():
    x, y = data(3, rows=200)
    forest = RandomForestClassifier(4, random_state=0, max_depth=3, min_samples_leaf=9)
    made, bags = grown(x, y, forest=forest)
    for tree, bag in zip(made.estimators_, bags, strict=True):
        assert tree.tree_.max_depth <= 3
        leaves, counts = np.unique(tree.apply(x[bag > 0]), return_counts=True)
        assert counts.min() >= 9 and len(leaves) > 1


def test_missing_values_are_refused():
    with pytest.raises(InputError, match="takes no missing values"):
        bin_features(np.array([[1.0], [np.nan]]))


@pytest.mark.parametrize("kind", [RandomForestClassifier, RandomForestRegressor])
def test_bags_weigh_what_they_weigh_in_the_trees_of_the_forest(kind):
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(400, 2)), draw.integers(0, 2, 400)
    weight = np.where(y == 1, 9.0, 1.0)
    forest = kind(10, max_depth=1, random_state=0).fit(x, y, sample_weight=weight)
    bags = bag_weights(forest, weight)
    roots = [tree.tree_.value[0].ravel()[-1] for tree in forest.estimators_]  # the share, or mean, of class 1
    assert np.allclose((bags * y).sum(1) / bags.sum(1), roots)

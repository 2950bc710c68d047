import numpy as np
import pytest
from joblib import parallel_config
from joblib.externals.loky import get_reusable_executor
from sklearn.datasets import load_iris, make_regression
from sklearn.ensemble import ExtraTreesRegressor, RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

from secateur.core.errors import InputError
from secateur.trees.tree_arrays import cut_tree, read_forest

X, Y = load_iris(return_X_y=True)
HOLES = np.where(np.random.default_rng(0).random(X.shape) < 0.2, np.nan, X)


@pytest.mark.parametrize("x", [X, HOLES], ids=["whole", "missing"])
def test_examples_end_in_scikit_learns_leaves(x):
    forest = RandomForestClassifier(5, random_state=0).fit(x, Y)
    arrays = read_forest(forest.estimators_)
    expected = np.array([tree.apply(x.astype(np.float32)) for tree in forest.estimators_])
    assert np.array_equal(arrays.leaves(x), expected + arrays.roots[:, None])
    inner = np.flatnonzero(arrays.steps.feature >= 0)
    assert np.array_equal(arrays.parent[arrays.steps.left[inner]], inner) and (arrays.parent[arrays.roots] == -1).all()


def test_workers_share_the_trees_whatever_the_backend():
    forest = RandomForestClassifier(5, random_state=0).fit(X, Y)
    arrays = read_forest(forest.estimators_)
    with parallel_config(backend="loky"):
        shared = arrays.leaves(X, 2)
    get_reusable_executor().shutdown(wait=True)
    assert np.array_equal(shared, arrays.leaves(X)) and np.array_equal(shared, arrays.leaves(X, -1))


def test_a_cut_tree_keeping_all_is_the_tree_and_keeping_none_its_root():
    tree = DecisionTreeClassifier(random_state=0).fit(HOLES, Y)
    whole, stump = (
        cut_tree(tree.tree_, tree.tree_.children_left >= 0),
        cut_tree(tree.tree_, np.zeros(tree.tree_.node_count, bool)),
    )
    x = HOLES.astype(np.float32)
    assert np.array_equal(whole.predict(x), tree.tree_.predict(x)) and whole.node_count == tree.tree_.node_count
    assert stump.node_count == 1 and stump.max_depth == 0 and np.array_equal(stump.value, tree.tree_.value[:1])


def test_a_cut_tree_answers_with_the_value_of_the_node_it_stops_at():
    x, y = make_regression(200, 5, random_state=0)
    tree = ExtraTreesRegressor(1, random_state=0).fit(x, y).estimators_[0].tree_
    split = (tree.children_left >= 0) & (np.arange(tree.node_count) % 3 != 0)
    split[0] = True
    small = cut_tree(tree, split)
    for row in x[:50].astype(np.float32):
        node = 0
        while split[node]:
            node = (tree.children_left if row[tree.feature[node]] <= tree.threshold[node] else tree.children_right)[
                node
            ]
        assert small.predict(row[None])[0, 0] == tree.value[node, 0, 0]


def test_several_outputs_are_refused():
    tree = DecisionTreeClassifier().fit(X, np.stack([Y, Y], axis=1))
    with pytest.raises(InputError, match="several outputs"):
        read_forest([tree])

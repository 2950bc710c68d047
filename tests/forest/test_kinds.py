import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.tree import DecisionTreeClassifier

from secateur.core.errors import InputError
from secateur.forest.kinds import arrays_of, is_prunable, rebuilt, trees_of

X, Y = load_breast_cancer(return_X_y=True)
KINDS = [
    RandomForestClassifier(3, random_state=0, oob_score=True, n_jobs=1),
    ExtraTreesClassifier(3, random_state=0),
    DecisionTreeClassifier(random_state=0),
    GradientBoostingClassifier(n_estimators=3, random_state=0),
    BaggingClassifier(n_estimators=3, max_features=0.4, random_state=0),
]


def test_which_estimators_can_be_pruned():
    assert all(is_prunable(kind) for kind in KINDS) and not is_prunable(AdaBoostClassifier())
    assert not is_prunable(BaggingClassifier(GradientBoostingClassifier()))
    assert len(trees_of(KINDS[2])) == 1


@pytest.mark.filterwarnings("ignore:Some inputs do not have OOB scores")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_an_estimator_with_all_its_splits_predicts_the_same_and_with_none_a_constant(kind):
    forest = kind.fit(X, Y)
    arrays = arrays_of(forest)
    splits = arrays.steps.feature >= 0
    whole, bare = rebuilt(forest, arrays, splits), rebuilt(forest, arrays, np.zeros_like(splits))
    assert type(whole) is type(forest) and np.allclose(whole.predict_proba(X), forest.predict_proba(X))
    assert len(np.unique(bare.predict_proba(X), axis=0)) == 1


@pytest.mark.filterwarnings("ignore:Some inputs do not have OOB scores")
def test_scores_of_the_forest_before_do_not_stand_on_the_pruned_one():
    forest = KINDS[0].fit(X, Y)
    small = rebuilt(forest, arrays_of(forest), arrays_of(forest).steps.feature >= 0)
    assert hasattr(forest, "oob_score_") and not hasattr(small, "oob_score_")


def test_trees_of_bagging_ask_for_features_of_the_forest():
    forest = BaggingClassifier(DecisionTreeClassifier(max_depth=1), 20, max_features=1, random_state=0).fit(X, Y)
    arrays = arrays_of(forest)
    asked = arrays.steps.feature[arrays.roots]
    assert asked.tolist() == [int(own[0]) for own in forest.estimators_features_]
    votes = arrays.value[arrays.leaves(X)].mean(0)
    assert np.allclose(votes, forest.predict_proba(X))


def test_bagging_whose_trees_know_different_classes_is_refused():
    y = np.arange(40) // 4
    forest = BaggingClassifier(n_estimators=4, random_state=0).fit(X[:40], y)
    forest.estimators_[0] = DecisionTreeClassifier().fit(X[:4], y[:4])
    with pytest.raises(InputError, match="never saw some of the classes"):
        arrays_of(forest)

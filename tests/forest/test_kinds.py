import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import (
    AdaBoostClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.tree import DecisionTreeClassifier

from secateur.forest.kinds import arrays_of, is_prunable, rebuilt, trees_of

X, Y = load_breast_cancer(return_X_y=True)
KINDS = [
    RandomForestClassifier(3, random_state=0, oob_score=True, n_jobs=1),
    ExtraTreesClassifier(3, random_state=0),
    DecisionTreeClassifier(random_state=0),
    GradientBoostingClassifier(n_estimators=3, random_state=0),
]


def test_which_estimators_can_be_pruned():
    assert all(is_prunable(kind) for kind in KINDS) and not is_prunable(AdaBoostClassifier())
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

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from secateur.core.errors import InputError
from secateur.forest.labels import check_labels, check_weight, class_weights, numbered

CLASSES = np.array(["ham", "spam"])


def test_labels_are_places_among_the_classes():
    assert numbered(np.array(["spam", "ham", "spam"]), CLASSES).tolist() == [1, 0, 1]
    with pytest.raises(InputError, match="class 'eggs' is none the forest was fitted on"):
        numbered(np.array(["spam", "eggs"]), CLASSES)


def test_text_and_numbers_are_never_taken_for_each_other():
    with pytest.raises(InputError, match="y holds numbers such as '1', and the forest was fitted on text"):
        check_labels(np.array([1, 2]), CLASSES, "y")


def test_weights_of_nothing_are_refused_and_class_weights_are_the_forests():
    with pytest.raises(InputError, match="weigh nothing"):
        check_weight(np.zeros(3))
    y = np.array(["spam", "ham", "ham", "ham"])
    balanced = class_weights(RandomForestClassifier(class_weight="balanced"), y, np.ones(4))
    assert np.allclose(balanced, [2.0, 2 / 3, 2 / 3, 2 / 3])
    assert class_weights(RandomForestRegressor(), y, np.ones(4)).tolist() == [1.0] * 4
    assert class_weights(RandomForestClassifier(class_weight={"spam": 9, "ham": 1}), y, np.ones(4)).sum() == 4
    with pytest.raises(InputError, match="weigh nothing"):
        class_weights(RandomForestClassifier(class_weight={"spam": 0, "ham": 1}), y, np.array([1.0, 0, 0, 0]))

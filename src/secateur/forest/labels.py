"""Labels and weights of examples, as a fitted forest knows them."""

from typing import Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.utils import compute_sample_weight

from secateur.core.errors import InputError

__all__ = ["check_labels", "check_weight", "class_weights", "numbered"]


def check_labels(y: Any, classes: Any, where: str) -> None:
    """Raise InputError when one is text and the other numbers: no label would be right, without a word."""
    kinds = ["text" if np.asarray(labels).dtype.kind in "UO" else "numbers" for labels in (y, classes)]
    if kinds[0] != kinds[1]:
        raise InputError(
            f"{where} holds {kinds[0]} such as {str(y[0])[:40]!r}, and the forest was fitted on {kinds[1]} such as "
            f"{str(classes[0])[:40]!r}: give labels of the same kind"
        )


def numbered(y: Any, classes: Any) -> Any:
    """Every label's place among the classes. Raises InputError for one that is not among them."""
    check_labels(y, classes, "y")
    numbers = np.searchsorted(classes, y).clip(0, len(classes) - 1)
    if (classes[numbers] != y).any():
        raise InputError(f"class {str(y[classes[numbers] != y][0])!r} is none the forest was fitted on")
    return numbers.astype(np.int64)


def check_weight(weight: Any) -> None:
    """Raise InputError where all examples weigh 0."""
    if weight.sum() <= 0:
        raise InputError("the examples to prune on weigh nothing: give some a sample_weight above 0")


def class_weights(forest: Any, y: Any, weight: Any) -> Any:
    """The examples' weights by the forest's class_weight, with the total they had: a mean error stays a share.

    Raises InputError where all examples weigh 0.
    """
    check_weight(weight)
    given = getattr(forest, "class_weight", None)
    if given is None or not is_classifier(forest):
        return weight
    counted = weight * compute_sample_weight("balanced" if given == "balanced_subsample" else given, y)
    check_weight(counted)
    return counted * (weight.sum() / counted.sum())

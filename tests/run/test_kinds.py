from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest

from secateur.core.errors import RecipeError
from secateur.run.kinds import check_kind, shown

GOOD = [
    (1, int),
    (0, float),
    (0.5, float | None),
    (None, float | None),
    ("a", str),
    (True, bool),
    ([1, -2], Sequence[int]),
    ((), Sequence[int]),
    ({"a": 1, "b": 0.5}, Mapping[str, float]),
    ({"name": "x"}, str | Mapping[str, Any]),
    ("exact", Literal["exact", "diagonal"]),
    (object(), object),
]
BAD = [
    (True, int, "a whole number"),
    (0.5, int, "a whole number"),
    (10**30, int, "a whole number"),
    (True, float, "a number"),
    (float("nan"), float, "a number"),
    (float("inf"), float | None, "a number"),
    ({"a": 1}, float | None, "a number"),
    ("1", float, "a number"),
    (None, str, "text"),
    ("a\0b", str, "text"),
    (1, bool, "true or false"),
    (5, Sequence[int], "a list of whole numbers"),
    ("12", Sequence[int], "a list of whole numbers"),
    ([1, True], Sequence[int], "a list of whole numbers"),
    ({"a": "x"}, Mapping[str, float], "a mapping of numbers"),
    ({1: 0.5}, Mapping[str, float], "a mapping of numbers"),
    ([0.5], str | Mapping[str, Any], "text or a mapping"),
    ("axact", Literal["exact", "diagonal"], "'exact' or 'diagonal'"),
]


@pytest.mark.parametrize(("value", "annotation"), GOOD)
def test_what_fits_is_taken(value, annotation):
    assert check_kind("recipe", "key", value, annotation) == value


def test_whole_numbers_become_floats_where_floats_are_asked_for():
    assert isinstance(check_kind("recipe", "key", 1, float | None), float)
    assert isinstance(check_kind("recipe", "key", 1, int), int)


@pytest.mark.parametrize(("value", "annotation", "words"), BAD)
def test_what_does_not_fit_is_told_what_it_should_be(value, annotation, words):
    with pytest.raises(RecipeError, match=f"recipe: key should be {words}, got"):
        check_kind("recipe", "key", value, annotation)


def test_long_values_are_cut():
    assert len(shown("x" * 1000)) == 80 and shown(5) == "5"

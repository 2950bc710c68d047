import numpy as np
import pytest

from secateur.allocate.dsa import DSA
from secateur.allocate.problem import Problem
from secateur.core.errors import InputError, RatioError

BLOCKS = {name: {f"{name}.w": 10} for name in "abcd"}


def test_numbers_become_ratios_as_published():
    values = np.array([1.3, 0.0, 1.1, 1.5])
    found = DSA().allocate(Problem(BLOCKS, dict(zip("abcd", values, strict=True))), 0.7).ratios
    u = 1 - (values - values.min()) / (values.max() - values.min())
    v = 2 * 0.07 * u
    expected = 1 - (v - v.mean() + 1 - 0.7)
    assert list(found.values()) == pytest.approx(expected)
    assert max(found.values()) - min(found.values()) == pytest.approx(0.14)


def test_infinite_values_and_bad_programs_are_refused():
    with pytest.raises(RatioError, match="inf at b"):
        DSA().allocate(Problem(BLOCKS, {"a": 1.0, "b": float("inf"), "c": 1.0, "d": 2.0}), 0.5)
    with pytest.raises(InputError, match="should look like"):
        DSA(expression="var")


def test_an_expression_that_tells_no_block_from_another_gives_the_target():
    assert DSA().allocate(Problem(BLOCKS, dict.fromkeys("abcd", 0.5)), 0.5).ratios == dict.fromkeys("abcd", 0.5)

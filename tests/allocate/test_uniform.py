import pytest

from secateur.allocate.problem import Problem
from secateur.allocate.uniform import Uniform
from secateur.core.errors import RatioError


def test_every_block_gets_the_same_ratio():
    assert Uniform().allocate(Problem({"a": {"x": 1}, "b": {"y": 9}}), 0.3).ratios == {"a": 0.3, "b": 0.3}
    with pytest.raises(RatioError):
        Uniform().allocate(Problem({"a": {"x": 1}}), 2.0)

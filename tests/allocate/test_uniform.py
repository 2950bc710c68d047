import pytest

from secateur.allocate.uniform import uniform
from secateur.core.errors import RatioError


def test_every_name_gets_the_ratio():
    assert uniform(["a", "b"], 0.3).ratios == {"a": 0.3, "b": 0.3}
    with pytest.raises(RatioError):
        uniform(["a"], 2.0)

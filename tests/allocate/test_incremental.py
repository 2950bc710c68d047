import math
from itertools import pairwise

import pytest

from secateur.allocate.incremental import Incremental
from secateur.allocate.problem import Problem
from secateur.core.errors import InputError, RatioError


def blocks_of(sizes):
    return Problem({name: {f"{name}.w": size} for name, size in sizes.items()})


@pytest.mark.parametrize("blocks", [2, 12, 22, 32, 80])
@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.5, 0.8])
def test_the_weighted_mean_is_the_target_and_ratios_rise(blocks, ratio):
    sizes = {f"b{i}": 100 + i for i in range(blocks)}
    allocation = Incremental().allocate(blocks_of(sizes), ratio)
    values = list(allocation.ratios.values())
    assert allocation.mean(sizes) == pytest.approx(ratio, abs=1e-12)
    assert all(a <= b + 1e-12 for a, b in pairwise(values)) and values[-1] <= 0.95 + 1e-12


def test_ratios_follow_the_logarithm_of_depth():
    values = list(Incremental(start=0.3).allocate(blocks_of(dict.fromkeys("abcdef", 1)), 0.25).ratios.values())
    assert values[0] == pytest.approx(0.075)
    assert [(v - values[0]) / (values[-1] - values[0]) for v in values] == pytest.approx(
        [math.log(i + 1) / math.log(6) for i in range(6)]
    )


def test_one_block_takes_it_all_and_bad_fields_are_refused():
    assert Incremental().allocate(blocks_of({"a": 5}), 0.4).ratios == {"a": 0.4}
    with pytest.raises(InputError, match="start"):
        Incremental(start=2.0)
    with pytest.raises(RatioError, match="ceiling"):
        Incremental(ceiling=0.5).allocate(blocks_of({"a": 1, "b": 1}), 0.8)

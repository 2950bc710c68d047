from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.core.errors import InputError
from secateur.lottery.subset_sum import closest_on_grid, closest_subset, meet

NUMBERS = st.lists(st.floats(-10, 10, width=32), min_size=0, max_size=15)


def brute_force(values, target):
    return min(
        abs(target - sum(v for v, bit in zip(values, bits, strict=True) if bit))
        for bits in product((0, 1), repeat=len(values))
    )


@given(NUMBERS, st.floats(-30, 30, width=32))
def test_meeting_in_the_middle_is_exact(values, target):
    taken, rest = closest_subset(np.array(values, dtype=float), target)
    assert rest == pytest.approx(target - sum(np.array(values)[taken]), abs=1e-9)
    assert abs(rest) == pytest.approx(brute_force(values, target), abs=1e-9)


@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=12), st.floats(-30, 30, width=32))
def test_the_grid_keeps_its_promise(values, target):
    for step in (0.5, 0.01):
        taken, rest = closest_on_grid(np.array(values, dtype=float), target, step)
        assert rest == pytest.approx(target - sum(np.array(values)[taken]), abs=1e-9)
        assert abs(rest) <= brute_force(values, target) + len(values) * step + 1e-9


def test_many_numbers_meet_and_more_go_on_the_grid():
    values = np.random.default_rng(0).uniform(-1, 1, 60)
    assert abs(closest_subset(values[:40], 0.4321).rest) < 1e-9
    with pytest.raises(InputError, match="at most 40 numbers, got 60: use closest_on_grid"):
        closest_subset(values, 0.4321)
    assert abs(closest_on_grid(values, 0.4321, 1e-4).rest) < 60 * 1e-4
    with pytest.raises(InputError, match="take a wider step"):
        closest_on_grid(values, 0.4321, 1e-9)
    with pytest.raises(InputError, match="positive number"):
        closest_on_grid(values, 0.4321, 0.0)


def test_a_search_that_may_stop_stops_close_enough():
    values = np.random.default_rng(1).uniform(-1, 1, 24)
    bits = meet(values, 0.3, 1e-3)
    found = values[(bits >> np.arange(24)) & 1 == 1].sum()
    assert abs(0.3 - found) <= 1e-3

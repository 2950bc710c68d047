import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.core.errors import InputError
from secateur.lottery.golden import GOLDEN, check_base, decompose, interval_count


def drawn_values(seed, count, base, cases):
    """A value in every interval for every case: at either end, or anywhere between."""
    rng = np.random.default_rng(seed)
    places = rng.choice([0.0, 1.0, np.nan], size=(count, cases))
    places = np.where(np.isnan(places), rng.random((count, cases)), places)
    return base ** -(np.arange(1, count + 1)[:, None] + places)


@given(st.integers(0, 2**32), st.integers(1, 40), st.floats(1.05, GOLDEN))
def test_the_lemma_holds_for_any_values_in_the_intervals(seed, count, base):
    cases = 2500  # 40 examples make 1e5 cases
    weights = np.random.default_rng(seed + 1).random(cases)
    weights[:4] = [0.0, 1.0, base**-count, base**-1]
    values = drawn_values(seed, count, base, cases)
    taken, rest = decompose(weights, values)
    assert (rest >= 0).all() and (rest <= base**-count * (1 + 1e-12)).all()
    assert np.allclose(rest, weights - (taken * values).sum(0), atol=1e-12)


def test_the_greedy_rule_is_the_one_of_plain_loops():
    values, weights = drawn_values(0, 12, GOLDEN, 50), np.random.default_rng(3).random(50)
    taken, rest = decompose(weights, values)
    for case, weight in enumerate(weights):
        for step in range(12):
            assert taken[step, case] == (values[step, case] <= weight)
            weight -= values[step, case] * taken[step, case]
        assert rest[case] == weight


@pytest.mark.parametrize("base", [1.7, 2.0, 3.0])
def test_a_base_above_the_golden_ratio_leaves_far_more_than_its_last_interval(base):
    count, weights = 20, np.linspace(0, 1, 2001)
    values = base ** -(np.arange(1, count + 1) + 1.0)  # the low ends
    assert decompose(weights, values).rest.max() > 1000 * base**-count
    with pytest.raises(InputError, match="above the golden ratio the greedy rule fails"):
        check_base(base)


@given(st.floats(1e-9, 0.9), st.floats(1.1, GOLDEN))
def test_the_count_is_tight_to_one(accuracy, base):
    count = interval_count(accuracy, base)
    assert base**-count <= accuracy * (1 + 1e-8) and base ** -(count - 1) > accuracy * (1 - 1e-8)
    values = base ** -(np.arange(1, count + 1) + 1.0)  # low ends leave a weight of 1 the most
    if count > 1 and base == GOLDEN:
        assert decompose(np.array([1.0]), values[:-1]).rest[0] > accuracy


def test_the_golden_ratio_is_tight():
    """With the low ends and weight 1, every value is taken and what is left is exactly the last interval's end."""
    for count in (1, 5, 20):
        taken, rest = decompose(np.array([1.0]), GOLDEN ** -(np.arange(1, count + 1) + 1.0))
        assert rest[0] == pytest.approx(GOLDEN**-count, rel=1e-6) and taken.sum() == count


@pytest.mark.parametrize(("accuracy", "base"), [(0.0, 1.5), (-1.0, 1.5), (math.nan, 1.5), (0.1, 1.0), (0.1, 1.62)])
def test_what_cannot_be_counted_is_refused(accuracy, base):
    with pytest.raises(InputError):
        interval_count(accuracy, base)

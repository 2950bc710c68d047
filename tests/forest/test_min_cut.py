import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forest_cases import case, closed, every_choice
from secateur.forest.linear_programme import linear_programme
from secateur.forest.min_cut import min_cut


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.01, 0.1, 0.3, 1.0, 100.0]), st.booleans())
def test_the_cut_is_the_best_of_all_choices(seed, trade_off, regression):
    programme = case(seed, trees=2, regression=regression).programme
    keep = min_cut(programme, trade_off)
    best = min(programme.objective(choice, trade_off) for choice in every_choice(programme))
    assert closed(programme, keep) and programme.objective(keep, trade_off) == pytest.approx(best, abs=1e-9)


@given(st.integers(0, 10_000), st.floats(0.0, 0.5))
def test_the_cut_is_the_linear_programmes_optimum_on_larger_forests(seed, trade_off):
    programme = case(seed, trees=12, leaves=20, examples=150, weighted=True).programme
    keep, relaxed = min_cut(programme, trade_off), linear_programme(programme, trade_off)
    assert closed(programme, keep)
    assert programme.objective(keep, trade_off) == pytest.approx(programme.objective(relaxed, trade_off), abs=1e-9)


@given(st.integers(0, 10_000), st.floats(-1.0, 1.0))
def test_splits_that_raise_the_error_are_weighed_too(seed, shift):
    """On held-out data a split may lose; then its place is decided by what lies below."""
    programme = case(seed, trees=2).programme
    harmed = dataclasses.replace(programme, gain=programme.gain - shift)
    best = min(harmed.objective(choice, 0.1) for choice in every_choice(harmed))
    assert harmed.objective(min_cut(harmed, 0.1), 0.1) == pytest.approx(best, abs=1e-9)


def test_the_ends_are_least_error_and_no_cost():
    programme = case(11, trees=5).programme
    free, dear = min_cut(programme, 0.0), min_cut(programme, np.inf)
    assert programme.value(free).error == min(programme.value(k).error for k in (free, np.ones_like(free)))
    assert programme.value(dear).cost == 0
    empty = dataclasses.replace(
        programme, **{name: getattr(programme, name)[:0] for name in ("node", "parent", "gain")}
    )
    assert len(min_cut(empty, 0.1)) == 0 and len(linear_programme(empty, 0.1)) == 0

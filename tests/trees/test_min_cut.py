import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forest_cases import case, closed, every_choice
from secateur.trees.linear_program import linear_program
from secateur.trees.min_cut import min_cut


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.01, 0.1, 0.3, 1.0, 100.0]), st.booleans())
def test_the_cut_is_the_best_of_all_choices(seed, trade_off, regression):
    program = case(seed, trees=2, regression=regression).program
    keep = min_cut(program, trade_off)
    best = min(program.objective(choice, trade_off) for choice in every_choice(program))
    assert closed(program, keep) and program.objective(keep, trade_off) == pytest.approx(best, abs=1e-9)


@given(st.integers(0, 10_000), st.floats(0.0, 0.5))
def test_the_cut_is_the_linear_programs_optimum_on_larger_forests(seed, trade_off):
    program = case(seed, trees=12, leaves=20, examples=150, weighted=True).program
    keep, relaxed = min_cut(program, trade_off), linear_program(program, trade_off)
    assert closed(program, keep)
    assert program.objective(keep, trade_off) == pytest.approx(program.objective(relaxed, trade_off), abs=1e-9)


@given(st.integers(0, 10_000), st.floats(-1.0, 1.0))
def test_splits_that_raise_the_error_are_weighed_too(seed, shift):
    """On held-out data a split may lose; then its place is decided by what lies below."""
    program = case(seed, trees=2).program
    harmed = dataclasses.replace(program, gain=program.gain - shift)
    best = min(harmed.objective(choice, 0.1) for choice in every_choice(harmed))
    assert harmed.objective(min_cut(harmed, 0.1), 0.1) == pytest.approx(best, abs=1e-9)


def test_the_ends_are_least_error_and_no_cost():
    program = case(11, trees=5).program
    free, dear = min_cut(program, 0.0), min_cut(program, np.inf)
    assert program.value(free).error == min(program.value(k).error for k in (free, np.ones_like(free)))
    assert program.value(dear).cost == 0
    empty = dataclasses.replace(program, **{name: getattr(program, name)[:0] for name in ("node", "parent", "gain")})
    assert len(min_cut(empty, 0.1)) == 0 and len(linear_program(empty, 0.1)) == 0

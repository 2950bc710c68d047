import pytest
from hypothesis import given
from hypothesis import strategies as st

from forest_cases import case, closed
from secateur.trees.min_cut import min_cut
from secateur.trees.primal_dual import PrimalDual


@given(st.integers(0, 10_000), st.floats(0.0, 0.5))
def test_the_optimum_lies_between_bound_and_objective(seed, trade_off):
    program = case(seed, trees=6, leaves=10, examples=80, weighted=True).program
    found = PrimalDual(rounds=60).solve(program, trade_off)
    best = program.objective(min_cut(program, trade_off), trade_off)
    assert found.bound <= best + 1e-9 and best <= found.objective + 1e-9 and closed(program, found.keep)
    assert found.objective == pytest.approx(program.objective(found.keep, trade_off))


def test_more_rounds_close_the_gap():
    program = case(2, trees=6, leaves=10, examples=80).program
    gaps = [PrimalDual(rounds=rounds).solve(program, 0.05).gap for rounds in (1, 20, 2000)]
    assert gaps[0] > gaps[1] > gaps[2] and gaps[2] < 1e-3

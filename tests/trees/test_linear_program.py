import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

from forest_cases import case
from secateur.core.errors import NumericalError
from secateur.trees import linear_program as module
from secateur.trees.linear_program import relaxed


@given(st.integers(0, 10_000), st.floats(0.0, 1.0))
def test_vertices_of_the_relaxation_are_whole_numbers(seed, trade_off):
    kept = relaxed(case(seed, trees=6, leaves=10, examples=80).program, trade_off)
    assert np.abs(kept - np.rint(kept)).max() < 1e-9


def test_no_optimum_is_an_error(monkeypatch):
    answer = scipy.optimize.OptimizeResult(status=2, message="infeasible")
    monkeypatch.setattr(module, "linprog", lambda *args, **settings: answer)
    with pytest.raises(NumericalError, match="infeasible"):
        relaxed(case(0).program, 0.1)

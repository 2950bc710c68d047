"""linear_program(program, trade_off): the same optimum by HiGHS, for checks; its vertices are whole numbers."""

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import linprog
from scipy.sparse import coo_array

from secateur.core.errors import NumericalError
from secateur.trees.integer_program import IntegerProgram

__all__ = ["linear_program", "relaxed"]


def relaxed(program: IntegerProgram, trade_off: float) -> Float[np.ndarray, " splits"]:
    """A vertex of the relaxation: how much of every split is kept. Raises NumericalError when HiGHS finds none.

    Formula: max g^T y - lambda T c^T w, y_u <= y_parent, y_u <= w_p, 0 <= y, w <= 1 [Nan et al. 2016, relaxation]
    """
    splits, pairs = len(program.gain), len(program.pair_cost)
    owner = np.repeat(np.arange(splits), np.diff(program.start))
    lower = np.flatnonzero(program.parent >= 0)
    small = np.concatenate([lower, owner])  # y[small] <= z[large]
    large = np.concatenate([program.parent[lower], splits + program.pair])
    rows = np.arange(len(small))
    signs = np.concatenate([np.ones(len(rows)), -np.ones(len(rows))])  # rows y[small] - z[large] <= 0
    places = (np.concatenate([rows, rows]), np.concatenate([small, large]))
    matrix = coo_array((signs, places), shape=(len(rows), splits + pairs)).tocsr()
    price = np.concatenate([-program.gain, program.prices(trade_off)])
    largest = float(np.abs(program.gain).max(initial=0.0)) or 1.0  # HiGHS's tolerances are absolute
    solution = linprog(price / largest, A_ub=matrix, b_ub=np.zeros(len(rows)), bounds=(0, 1), method="highs-ds")
    if solution.status != 0:
        raise NumericalError(f"HiGHS found no optimum: {solution.message}")
    return np.asarray(solution.x[:splits])


def linear_program(program: IntegerProgram, trade_off: float) -> Bool[np.ndarray, " splits"]:
    """The splits to keep. Raises NumericalError when HiGHS finds no optimum."""
    if len(program.gain) == 0:
        return np.zeros(0, bool)
    return relaxed(program, trade_off) > 0.5  # vertices are whole numbers up to HiGHS's tolerance

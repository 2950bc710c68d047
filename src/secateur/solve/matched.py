"""Weights that put out what the dense model did, on the inputs that the pruned model gives them."""

import torch

from secateur.calibrate.statistic import Cross, Gram
from secateur.core.linalg import cholesky, damped
from secateur.core.protocols import Stats
from secateur.core.shapes import Weight

__all__ = ["matched"]

_DAMP = 0.1


def matched(weight: Weight, stats: Stats) -> Weight:
    """The weight that a solver should approximate where earlier layers were pruned.

    Formula: argmin_W' ||W Y - W' X||^2 2/n + d ||W' - W||^2 = W (C + d I) (H + d I)^-1 [GPTAQ; Li et al. 2025]

    Y are the layer's inputs in the dense model, X those in the pruned one, H the Gram of X and C = 2/n Y X^T.
    d is a tenth of H's mean diagonal. Any mask on W' has the squared distance to W Y that it has to W' X, up to a
    constant. Raises NumericalError where the damped Gram is singular.
    """
    gram, cross = stats[Gram].value, stats[Cross].value
    matrix = damped(gram, _DAMP)
    aim = weight.to(gram.dtype) @ (cross + matrix - gram)
    return torch.cholesky_solve(aim.T, cholesky(matrix, "the Gram matrix")).T.contiguous().to(weight.dtype)

"""Damped inverse factors, the layer loss, and exact refits by row and by column."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from secateur.core.errors import NumericalError
from secateur.core.shapes import GramMatrix, Keep, Weight

__all__ = ["cholesky", "damped", "inverse_factor", "layer_loss", "refit_columns", "refit_conjugate", "refit_rows"]

_REFIT_BYTES = 256 << 20
_SMALL = 128  # below this a library's own triangular solve is faster


def damped(gram: GramMatrix, damp: float) -> GramMatrix:
    """The Gram plus `damp` times the mean diagonal of its live inputs; scaling the inputs scales it all.

    Dead inputs, zero in every token, have no share in the mean and get it as their diagonal: they touch
    no other input, so any positive number does (1 where all are dead).
    """
    matrix = gram.clone()
    diagonal = matrix.diagonal()
    alive = diagonal > 0
    # Of live inputs: dead ones would pull it down.
    mean = diagonal[alive].mean() if bool(alive.any()) else torch.ones_like(diagonal[0])
    diagonal.copy_(torch.where(alive, diagonal, mean) + damp * mean)
    return matrix


def cholesky(matrix: Float[Tensor, "*batch in in"], what: str) -> Float[Tensor, "*batch in in"]:
    """Lower factors. Raises NumericalError naming what is not positive definite."""
    factor, info = torch.linalg.cholesky_ex(matrix)  # reports a failure where `cholesky` would raise without a name
    if bool((info != 0).any()):
        raise NumericalError(
            f"{what} is singular (leading minor {int(info.max())} of {matrix.shape[-1]} is not positive): "
            "use more calibration tokens or a larger damp"
        )
    return factor


def inverse_factor(matrix: GramMatrix) -> GramMatrix:
    """Upper triangular U with U^T U = H^-1, from one Cholesky factor and one inverse.

    Reversing rows and columns turns a lower factor into H = R R^T with R upper, so
    U = R^-1; U_ii^2 is the OBS conditional inverse diagonal [(H_{i:,i:})^-1]_00.
    Raises NumericalError when H is not positive definite.
    """
    lower = cholesky(matrix.flip(0, 1), "the Gram matrix")  # reversed rows and columns: see above
    return _invert_lower(lower).flip(0, 1).contiguous()


def _invert_lower(lower: GramMatrix) -> GramMatrix:
    """Inverse of a lower triangle by halves: two small inverses and two products."""
    size = len(lower)
    if size <= _SMALL:
        eye = torch.eye(size, dtype=lower.dtype, device=lower.device)
        return torch.linalg.solve_triangular(lower, eye, upper=False)
    half = size // 2
    top, bottom = _invert_lower(lower[:half, :half]), _invert_lower(lower[half:, half:])
    inverse = torch.zeros_like(lower)
    inverse[:half, :half], inverse[half:, half:] = top, bottom
    inverse[half:, :half] = -(bottom @ (lower[half:, :half] @ top))  # [[T, 0], [L, B]]^-1 = [[T', 0], [-B' L T', B']]
    return inverse


def layer_loss(before: Weight, after: Weight, gram: GramMatrix) -> float:
    """||(W - W') X||^2 / tokens, from the Gram 2/n sum x x^T."""
    change = (before - after).to(gram.dtype)  # [out, in]
    return float(((change @ gram) * change).sum() / 2)  # tr(D H D^T) / 2; the Gram holds a factor of 2


def refit_rows(weight: Weight, keep: Keep, gram: GramMatrix) -> Weight:
    """Exact least squares of every row on its kept inputs, rows in batches.

    Solves H[S,S] w'_S = (H w)_S for each row's kept set S, in the Gram's dtype;
    shorter sets are padded with identity rows. Raises NumericalError when some
    H[S,S] is singular.
    """
    width = int(keep.sum(dim=1).max()) if keep.numel() else 0
    if width == 0:
        return torch.zeros_like(weight)
    target = weight.to(gram.dtype) @ gram  # [out, in]: the right sides of all rows
    order = torch.argsort(~keep, dim=1, stable=True)[:, :width]  # [out, width]: kept inputs first
    # [width, width] a row adds up: as many rows as fit
    rows = max(1, _REFIT_BYTES // (width * width * gram.element_size()))
    solved = torch.zeros_like(weight, dtype=gram.dtype)
    for start in range(0, len(weight), rows):
        part = slice(start, start + rows)
        index = order[part]
        kept = keep[part].gather(1, index)
        small = gram[index[:, :, None], index[:, None, :]]  # [rows, width, width]
        small *= kept[:, :, None] & kept[:, None, :]
        small.diagonal(dim1=1, dim2=2)[~kept] = 1.0  # padding: rows of the identity leave the others alone
        right = (target[part].gather(1, index) * kept)[:, :, None]  # [rows, width, 1]
        factor = cholesky(small, "the Gram of a kept set")
        values = torch.cholesky_solve(right, factor)[:, :, 0] * kept
        solved[part] = torch.zeros_like(solved[part]).scatter_(1, index, values)
    return solved.to(weight.dtype)


def refit_columns(weight: Weight, kept: Bool[Tensor, " in"], gram: GramMatrix) -> Weight:
    """Exact least squares when every row keeps the same inputs: one factor for all.

    W'_K = (W H)_K (H_KK)^-1, zero elsewhere. Raises NumericalError when H_KK is singular.
    """
    solved = torch.zeros_like(weight)
    if kept.any():
        factor = cholesky(gram[kept][:, kept], "the Gram of the kept columns")
        right = (weight.to(gram.dtype) @ gram[:, kept]).T  # [kept, out]
        solved[:, kept] = torch.cholesky_solve(right, factor).T.to(weight.dtype)
    return solved


def refit_conjugate(weight: Weight, keep: Keep, gram: GramMatrix, steps: int, *, start: Weight | None = None) -> Weight:
    """Least squares of all rows on their kept inputs by conjugate gradients, scaled by the Gram's diagonal.

    Formula: min_W' tr (W - W') H (W - W')^T, W' zero outside the mask [Hestenes & Stiefel 1952, preconditioned]

    Starts at `start`, or at the masked weight, so that no number of steps gives a higher loss; a row that is solved
    stays.
    """
    allowed = keep.to(gram.dtype)
    scale = allowed / gram.diagonal().clamp_min(torch.finfo(gram.dtype).tiny)  # [out, in]
    wide = weight.to(gram.dtype)
    solved = (wide if start is None else start.to(gram.dtype)) * allowed
    rest = ((wide - solved) @ gram) * allowed  # half the negative gradient on the mask
    scaled = rest * scale
    direction, before = scaled, (rest * scaled).sum(dim=1, keepdim=True)  # [out, 1]
    floor = 1e-12 * before  # below it a row has converged, and rounding would steer it
    for _ in range(steps):
        bent = (direction @ gram) * allowed
        curve = (direction * bent).sum(dim=1, keepdim=True)
        length = torch.where((curve > 0) & (before > floor), before / curve.clamp_min(1e-30), 0.0)
        solved = solved + length * direction
        rest = rest - length * bent
        scaled = rest * scale
        after = (rest * scaled).sum(dim=1, keepdim=True)
        direction = scaled + torch.where(before > floor, after / before.clamp_min(1e-30), 0.0) * direction
        before = after
    return solved.to(weight.dtype)

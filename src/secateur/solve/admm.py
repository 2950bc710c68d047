"""Mask and weights together by the alternating direction method of multipliers (ALPS)."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from secateur.calibrate.statistic import Gram
from secateur.core.errors import InputError
from secateur.core.linalg import cholesky, damped, layer_loss, refit_conjugate
from secateur.core.protocols import Pattern, Solution, Statistic, Stats
from secateur.core.shapes import GramMatrix, Keep, Weight
from secateur.registry import check_name
from secateur.solve.sparsegpt import SparseGPT

__all__ = ["ADMM"]

_RHO = 0.1  # the first penalty, of inputs with a mean square of one
_GROWTH = 1.2  # of the penalty in a step
_REST = 3  # steps without a change of the mask, after which it is taken
_STARTS = ("sparsegpt", "dense")


class _State(NamedTuple):
    """The pruned weights, and the multiplier over the penalty, both `[out, in]` and of scaled inputs."""

    pruned: Tensor
    dual: Tensor
    keep: Keep


@dataclass(frozen=True, kw_only=True)
class ADMM:
    """Least squares and projection in turns, until the mask rests; then conjugate gradients on that mask.

    Formula: X = W + (D - V - W) rho (H + rho I)^-1, D = P(X + V), V += X - D, rho *= 1.2 [ALPS; Meng et al. 2024]

    P projects on the pattern. V is the paper's multiplier over rho.
    Inputs are scaled to a mean square of one. The projection keeps the largest squares that the pattern allows.
    steps: at most. refit: steps of conjugate gradients. damp: share of the Gram's mean diagonal added to it.
    start: sparsegpt starts at its solution, and no loss is above SparseGPT's on the damped Gram; dense at the weights.
    Inputs that were zero in every token go first.
    """

    damp: float = 0.03
    steps: int = 20
    refit: int = 8
    start: str = "sparsegpt"

    name: ClassVar[str] = "admm"

    def __post_init__(self) -> None:
        """Refuse settings that solve nothing."""
        check_name("start", self.start, _STARTS)
        if not self.damp >= 0 or self.steps < 1 or self.refit < 0:
            raise InputError(
                f"admm needs damp of at least 0, steps of at least 1 and refit of at least 0, "
                f"got {self.damp}, {self.steps}, {self.refit}"
            )

    @property
    def needs(self) -> tuple[type[Statistic], ...]:
        """The Gram of the inputs."""
        return (Gram,)

    def solve(self, weight: Weight, stats: Stats, pattern: Pattern, ratio: float) -> Solution:
        """Alternate, then refit. Raises NumericalError where the damped Gram is singular."""
        pattern.check((weight.shape[0], weight.shape[1]), ratio)
        gram = stats[Gram].value
        matrix = damped(gram, self.damp)
        first = None
        if self.start == "sparsegpt":
            first = SparseGPT(damp=self.damp).solve(weight, stats, pattern, ratio)
        wide = weight.to(gram.dtype)
        # A dead input's weight is worth nothing, so it is as if it were zero until the mask is chosen.
        alive = wide * (gram.diagonal() > 0)
        found = self._alternated(alive, matrix, pattern, ratio, first)
        pruned = refit_conjugate(wide, found.keep, matrix, self.refit, start=found.pruned)
        if first is not None:
            known = first.weight.to(gram.dtype)
            if layer_loss(wide, known, matrix) < layer_loss(wide, pruned, matrix):
                found = found._replace(keep=first.keep)
                pruned = refit_conjugate(wide, first.keep, matrix, self.refit, start=known)
        pruned = pruned.to(weight.dtype)
        return Solution(pruned, found.keep, layer_loss(weight, pruned, gram))

    def _alternated(
        self, weight: Weight, matrix: GramMatrix, pattern: Pattern, ratio: float, first: Solution | None
    ) -> _State:
        """What is left when the mask rests, or after the last step."""
        scale = matrix.diagonal().sqrt()
        scaled = matrix / scale / scale[:, None]
        target = weight * scale
        if first is None:
            state = _projected(target, torch.zeros_like(target), pattern, ratio)
            state = state._replace(dual=torch.zeros_like(target))
        else:
            state = _State(first.weight.to(target.dtype) * scale, torch.zeros_like(target), first.keep)
        rho, rested = _RHO, 0
        for _ in range(self.steps):
            shrink = _shrinking(scaled, rho)
            left = target + (state.pruned - state.dual - target) @ shrink
            after = _projected(left, state.dual, pattern, ratio)
            rested = rested + 1 if torch.equal(after.keep, state.keep) else 0
            state = after._replace(dual=after.dual / _GROWTH)  # over the next penalty
            rho *= _GROWTH
            if rested == _REST:
                break
        return state._replace(pruned=state.pruned / scale)


def _projected(left: Tensor, dual: Tensor, pattern: Pattern, ratio: float) -> _State:
    """The nearest weights that the pattern allows, and the multiplier over the penalty that follows."""
    wanted = left + dual
    keep = pattern.keep(wanted.square(), ratio)
    pruned = wanted * keep
    return _State(pruned, wanted - pruned, keep)


def _shrinking(scaled: GramMatrix, rho: float) -> GramMatrix:
    """rho (H + rho I)^-1; from a Cholesky factor, which costs less than one eigendecomposition for so few steps."""
    matrix = scaled.clone()
    matrix.diagonal().add_(rho)
    return torch.cholesky_inverse(cholesky(matrix, "the Gram matrix")).mul_(rho)

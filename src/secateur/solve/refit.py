"""Any mask, then least squares on what is kept: exact, or by conjugate gradients."""

from dataclasses import dataclass
from typing import ClassVar

from secateur.calibrate.statistic import Gram
from secateur.core.errors import InputError
from secateur.core.linalg import damped, layer_loss, refit_columns, refit_conjugate, refit_rows
from secateur.core.protocols import Pattern, Score, Solution, Statistic, Stats
from secateur.core.shapes import Weight

__all__ = ["Refit"]


@dataclass(frozen=True, kw_only=True)
class Refit:
    """Choose by score, then solve every row exactly on its kept inputs.

    Formula: w'_K = H_KK^-1 H_K: w, K the kept inputs [least squares; LeCun et al. 1990]

    With damp 0 no other weights on the same mask have a lower loss; the damp is
    for Grams of few tokens, whose kept sets can be singular. steps: of conjugate gradients, for large
    matrices; None solves exactly.
    """

    score: Score
    damp: float = 0.0001
    steps: int | None = None

    def __post_init__(self) -> None:
        """Refuse a negative share."""
        if not self.damp >= 0:
            raise InputError(f"refit needs damp of at least 0, got {self.damp}")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"refit needs steps of at least 1, got {self.steps}")

    name: ClassVar[str] = "refit"

    @property
    def needs(self) -> tuple[type[Statistic], ...]:
        """What the score reads, and the Gram."""
        return tuple(dict.fromkeys((*self.score.needs, Gram)))

    def solve(self, weight: Weight, stats: Stats, pattern: Pattern, ratio: float) -> Solution:
        """Mask by score, then refit. Raises NumericalError on a singular kept set."""
        keep = pattern.keep(self.score(weight, stats), ratio)
        if bool(keep.all()):
            return Solution(weight, keep, 0.0)
        gram = stats[Gram].value
        matrix = damped(gram, self.damp)
        if self.steps is not None:
            pruned = refit_conjugate(weight, keep, matrix, self.steps)
            return Solution(pruned, keep, layer_loss(weight, pruned, gram))
        alike = bool((keep == keep[:1]).all())  # all rows keep the same inputs: one factor serves them all
        pruned = refit_columns(weight, keep[0], matrix) if alike else refit_rows(weight, keep, matrix)
        return Solution(pruned, keep, layer_loss(weight, pruned, gram))

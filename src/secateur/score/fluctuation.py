"""Inputs that hardly vary can go: what they add is nearly constant (FLAP)."""

from dataclasses import dataclass

from secateur.calibrate.moments import Moments
from secateur.core.protocols import Statistic, Stats
from secateur.core.shapes import ScoreMatrix, Weight

__all__ = ["Fluctuation"]


@dataclass(frozen=True, kw_only=True)
class Fluctuation:
    """Variance of an input times the squared norm of its column (FLAP).

    Formula: S_ij = Var(X_j) W_ij^2 [An et al. 2024 (FLAP), WIFV]
    """

    @property
    def needs(self) -> tuple[type[Statistic], ...]:
        """The variance of every input."""
        return (Moments,)

    def __call__(self, weight: Weight, stats: Stats) -> ScoreMatrix:
        """Score every weight by its square times the variance of its input."""
        return weight.square() * stats[Moments].value  # [out, in] * [in]

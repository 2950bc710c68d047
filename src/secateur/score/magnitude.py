"""The absolute weight (Han et al. 2015)."""

from dataclasses import dataclass

from secateur.core.protocols import Statistic, Stats
from secateur.core.shapes import ScoreMatrix, Weight

__all__ = ["Magnitude"]


@dataclass(frozen=True, kw_only=True)
class Magnitude:
    """Size of a weight; needs no calibration.

    Formula: S_ij = |W_ij| [Han et al. 2015]
    """

    @property
    def needs(self) -> tuple[type[Statistic], ...]:
        """Nothing but the weight."""
        return ()

    def __call__(self, weight: Weight, stats: Stats) -> ScoreMatrix:
        """Score every weight by its absolute value."""
        return weight.abs()

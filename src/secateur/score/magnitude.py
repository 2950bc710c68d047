"""The absolute weight (Han et al. 2015)."""

from dataclasses import dataclass
from typing import ClassVar

from secateur.core.roles import Statistic, Stats
from secateur.core.shapes import ScoreMatrix, Weight

__all__ = ["Magnitude"]


@dataclass(frozen=True, kw_only=True)
class Magnitude:
    """|W|: no calibration needed."""

    needs: ClassVar[tuple[type[Statistic], ...]] = ()

    def __call__(self, weight: Weight, stats: Stats) -> ScoreMatrix:
        """Score every weight by its absolute value."""
        return weight.abs()

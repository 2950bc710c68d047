"""Weights scaled by the norm of their inputs (Sun et al. 2024, equation 1)."""

from dataclasses import dataclass

from secateur.calibrate.statistic import InputRMS
from secateur.core.protocols import Statistic, Stats
from secateur.core.shapes import ScoreMatrix, Weight

__all__ = ["Wanda"]


@dataclass(frozen=True, kw_only=True)
class Wanda:
    """|W_ij| ||X_j||: what a weight contributes to its output."""

    @property
    def needs(self) -> tuple[type[Statistic], ...]:
        """The norm of every input."""
        return (InputRMS,)

    def __call__(self, weight: Weight, stats: Stats) -> ScoreMatrix:
        """Score every weight by its size times the norm of its input."""
        return weight.abs() * stats[InputRMS].value

"""Drop the lowest scores; the mean of what they added becomes a bias (FLAP)."""

from dataclasses import dataclass
from typing import ClassVar

from secateur.calibrate.moments import Moments
from secateur.core.protocols import Pattern, Score, Solution, Statistic, Stats
from secateur.core.shapes import Weight
from secateur.solve.mask_only import MaskOnly

__all__ = ["BiasCompensation"]


@dataclass(frozen=True, kw_only=True)
class BiasCompensation:
    """Every output gains what the removed inputs gave it on average, so that its mean stays.

    Formula: b_o += sum_{j removed} W_oj E[x_j] [An et al. 2024 (FLAP), equation 7]
    """

    score: Score
    name: ClassVar[str] = "bias-compensation"

    @property
    def needs(self) -> tuple[type[Statistic], ...]:
        """What the score reads, and the mean of every input."""
        return tuple(dict.fromkeys((*self.score.needs, Moments)))

    def solve(self, weight: Weight, stats: Stats, pattern: Pattern, ratio: float) -> Solution:
        """Mask by score; the loss is not known, as the mean is not part of a Gram's loss."""
        plain = MaskOnly(score=self.score).solve(weight, stats, pattern, ratio)
        return plain._replace(loss=None, bias=(weight - plain.weight) @ stats[Moments].mean)  # [out]

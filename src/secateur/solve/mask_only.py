"""Drop the lowest scores and change nothing else (magnitude, Wanda, RIA)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from secateur.calibrate.statistic import Gram
from secateur.core.linalg import layer_loss
from secateur.core.protocols import Pattern, Score, Solution, Statistic, Stats
from secateur.core.shapes import Weight

__all__ = ["MaskOnly"]


@dataclass(frozen=True, kw_only=True)
class MaskOnly:
    """Keep the highest scores as they are.

    Formula: W' = W * keep, keep the highest S [Han et al. 2015]
    """

    score: Score
    name: ClassVar[str] = "mask-only"

    @property
    def needs(self) -> tuple[type[Statistic], ...]:
        """What the score reads."""
        return self.score.needs

    def solve(self, weight: Weight, stats: Stats, pattern: Pattern, ratio: float) -> Solution:
        """Mask by score; the loss is known only when a Gram was gathered."""
        keep = pattern.keep(self.score(weight, stats), ratio)
        pruned = torch.where(keep, weight, 0)
        known = Gram in self.needs
        return Solution(pruned, keep, layer_loss(weight, pruned, stats[Gram].value) if known else None)

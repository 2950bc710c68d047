"""Random columns: what any choice must beat."""

from dataclasses import dataclass

import torch

from secateur.core.roles import Statistic, Stats
from secateur.core.seed import generator
from secateur.core.shapes import ScoreMatrix, Weight

__all__ = ["Random"]


@dataclass(frozen=True, kw_only=True)
class Random:
    """One number for every input, the same for all outputs and for layers of one width."""

    seed: int = 0

    @property
    def needs(self) -> tuple[type[Statistic], ...]:
        """Nothing."""
        return ()

    def __call__(self, weight: Weight, stats: Stats) -> ScoreMatrix:
        """Score inputs at random."""
        draw = torch.rand(weight.shape[1], generator=generator(self.seed, "random", weight.shape[1]))
        return draw.to(weight.device).expand(weight.shape)

"""Random columns: what any choice must beat."""

from dataclasses import dataclass

import torch

from secateur.core.errors import InputError
from secateur.core.protocols import Statistic, Stats
from secateur.core.seed import generator
from secateur.core.shapes import ScoreMatrix, Weight

__all__ = ["Random"]


@dataclass(frozen=True, kw_only=True)
class Random:
    """One random number for every input.

    Formula: S_ij = u_j, uniform in 0..1 [a baseline]
    """

    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse seeds that no stream has."""
        if self.seed < 0:
            raise InputError(f"random needs a seed of at least 0, got {self.seed}")

    @property
    def needs(self) -> tuple[type[Statistic], ...]:
        """Nothing."""
        return ()

    def __call__(self, weight: Weight, stats: Stats) -> ScoreMatrix:
        """Score inputs at random."""
        # [in], the same for every output: whole inputs go
        draw = torch.rand(weight.shape[1], generator=generator(self.seed, "random", weight.shape[1]), device="cpu")
        return draw.to(weight.device).expand(weight.shape)

"""More stays where outliers are many (OWL)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.allocate.problem import Problem
from secateur.allocate.spread import block_scores, spread
from secateur.calibrate.statistic import InputRMS
from secateur.core.allocation import Allocation
from secateur.core.errors import InputError
from secateur.core.protocols import BlockView, Statistic

__all__ = ["OWL", "outlier_share"]


@dataclass(frozen=True, kw_only=True)
class OWL:
    """Blocks with many outliers keep more (Yin et al. 2024).

    Formula: D_b = share of S_ij > outlier mean(S), S = |W_ij| ||X_j||_2 [Yin et al. 2024 (OWL)]

    Densities rise with D over [-half, half] around the target.
    """

    outlier: float = 5.0
    half: float = 0.08

    def __post_init__(self) -> None:
        """Refuse fields outside their range."""
        if self.outlier <= 0 or not 0 <= self.half <= 0.5:
            raise InputError(f"owl: outlier {self.outlier} should be above 0 and half {self.half} in 0..0.5")

    @property
    def needs(self) -> tuple[type[Statistic], ...]:
        """The norm of every input."""
        return (InputRMS,)

    def watch(self) -> None:
        """What passes between blocks is not looked at."""

    def read(self, view: BlockView) -> float:
        """The outlier share D of the block."""
        return outlier_share(block_scores(view), self.outlier)

    def allocate(self, problem: Problem, ratio: float) -> Allocation:
        """Ratios by block that fall with the outlier share."""
        return spread({name: -share for name, share in problem.summaries.items()}, problem.sizes, ratio, self.half)


def outlier_share(scores: Sequence[Tensor], times: float) -> float:
    """The share of all scores above `times` their common mean."""
    count = sum(score.numel() for score in scores)
    # Float32 sums of millions of scores lose digits.
    mean = sum(float(score.sum(dtype=torch.float64)) for score in scores) / count
    return sum(int((score > times * mean).sum()) for score in scores) / count

"""Relative importance and activations (Zhang et al. 2024, equation 4)."""

from dataclasses import dataclass

import torch

from secateur.calibrate.statistic import InputRMS
from secateur.core.errors import InputError
from secateur.core.protocols import Statistic, Stats
from secateur.core.shapes import ScoreMatrix, Weight

__all__ = ["RIA"]


@dataclass(frozen=True, kw_only=True)
class RIA:
    """Weight relative to its row and column, times its input's norm.

    Formula: S_ij = (|W_ij| / sum_j |W_ij| + |W_ij| / sum_i |W_ij|) ||X_j||_2^power [Zhang et al. 2024 (RIA)]

    A row or column of zeros adds nothing instead of dividing by zero.
    """

    power: float = 0.5

    def __post_init__(self) -> None:
        """Refuse powers that turn the order of inputs round."""
        if not 0 <= self.power < float("inf"):
            raise InputError(f"ria needs power of at least 0, got {self.power}")

    @property
    def needs(self) -> tuple[type[Statistic], ...]:
        """The norm of every input."""
        return (InputRMS,)

    def __call__(self, weight: Weight, stats: Stats) -> ScoreMatrix:
        """Score every weight by its share of its row and of its column."""
        size = weight.abs()
        smallest = torch.finfo(size.dtype).tiny
        row = size / size.sum(dim=1, keepdim=True).clamp_min(smallest)  # [out, in] / [out, 1]
        column = size / size.sum(dim=0, keepdim=True).clamp_min(smallest)  # [out, in] / [1, in]
        return (row + column) * stats[InputRMS].value.pow(self.power)

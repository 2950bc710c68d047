"""Weights scaled by the norm of their inputs (Sun et al. 2024, equation 1)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from secateur.calibrate.statistic import InputRMS
from secateur.core.protocols import Statistic, Stats
from secateur.core.shapes import ScoreMatrix, Weight

__all__ = ["Wanda", "row_ranks", "wanda_score"]


@dataclass(frozen=True, kw_only=True)
class Wanda:
    """Size of a weight times the norm of its input.

    Formula: S_ij = |W_ij| ||X_j||_2 [Sun et al. 2024 (Wanda), equation 1]
    """

    @property
    def needs(self) -> tuple[type[Statistic], ...]:
        """The norm of every input."""
        return (InputRMS,)

    def __call__(self, weight: Weight, stats: Stats) -> ScoreMatrix:
        """Score every weight by its size times the norm of its input."""
        return wanda_score(weight, stats[InputRMS].value)


def wanda_score(weight: Weight, norm: Float[Tensor, " in"]) -> ScoreMatrix:
    """The same from the norms of the inputs, where they were gathered elsewhere."""
    return weight.abs() * norm  # [out, in] * [in]


def row_ranks(score: ScoreMatrix) -> Tensor:
    """Every entry's place in its row, 0 for the lowest; a row loses its first k by `rank < k`. Ties in column order."""
    kind = torch.int16 if score.shape[1] < 2**15 else torch.int32  # two bytes a weight, as a whole model's are kept
    return score.contiguous().argsort(dim=1, stable=True).argsort(dim=1).to(kind)

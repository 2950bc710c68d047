"""First-order change of the loss when a weight goes (LLM-Pruner's element-wise form)."""

from dataclasses import dataclass

from secateur.calibrate.gradient import Gradient
from secateur.core.protocols import Statistic, Stats
from secateur.core.shapes import ScoreMatrix, Weight

__all__ = ["Taylor"]


@dataclass(frozen=True, kw_only=True)
class Taylor:
    """First-order change of the loss without a weight.

    Formula: S_ij = |W_ij dL/dW_ij| [Ma et al. 2023 (LLM-Pruner), equation 4]
    """

    @property
    def needs(self) -> tuple[type[Statistic], ...]:
        """The gradient of the loss in the dense model."""
        return (Gradient,)

    def __call__(self, weight: Weight, stats: Stats) -> ScoreMatrix:
        """Score every weight by how much the loss changes without it."""
        return (weight * stats[Gradient].value).abs()  # [out, in]

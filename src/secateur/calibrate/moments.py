"""Mean and variance of every input, by sums that merge without cancellation."""

import torch
from jaxtyping import Float
from torch import Tensor

from secateur.core.errors import CalibrationError
from secateur.core.protocols import Statistic
from secateur.core.shapes import Activations

__all__ = ["Moments"]


class Moments(Statistic):
    """Running mean and variance `[in]` (Chan et al. 1983)."""

    def __init__(self, tokens: int = 0, mean: Tensor | None = None, spread: Tensor | None = None) -> None:
        """Start with no tokens, or with a mean and the sum of squared distances from it."""
        self.tokens = tokens
        self._mean = mean
        self._spread = spread

    def update(self, x: Activations) -> None:
        """Add a batch of inputs."""
        if len(x) == 0:
            return
        x = x.double()  # the variance of large numbers cancels in float32
        mean = x.mean(dim=0)
        both = self.merge(Moments(len(x), mean, (x - mean).square().sum(dim=0)))
        self.tokens, self._mean, self._spread = both.tokens, both._mean, both._spread

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets of inputs."""
        if self._mean is None or other._mean is None or self._spread is None or other._spread is None:
            return self if other._mean is None else other
        tokens = self.tokens + other.tokens
        gap = other._mean - self._mean  # [in]
        mean = self._mean + gap * (other.tokens / tokens)
        spread = self._spread + other._spread + gap.square() * (self.tokens * other.tokens / tokens)
        return Moments(tokens, mean, spread)

    @property
    def value(self) -> Float[Tensor, " in"]:
        """The variance. Raises CalibrationError without tokens, or with NaN or inf."""
        return (self._checked(self._spread) / self.tokens).float()

    @property
    def mean(self) -> Float[Tensor, " in"]:
        """The mean; raises as `value` does."""
        return self._checked(self._mean).float()

    def _checked(self, part: Tensor | None) -> Tensor:
        if part is None:
            raise CalibrationError("no calibration token reached this layer: use more samples, or leave the layer out")
        if not torch.isfinite(part).all():
            raise CalibrationError("calibration activations hold NaN or inf: try --dtype float32")
        return part

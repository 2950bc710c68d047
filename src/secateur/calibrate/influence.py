"""How much a block changes what passes through it (ShortGPT)."""

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from secateur.core.errors import CalibrationError
from secateur.core.shapes import Hidden

__all__ = ["Influence"]


class Influence:
    """Men et al. 2024, equation 1: one minus the mean cosine of a block's input and output."""

    def __init__(self) -> None:
        """Start with no tokens."""
        self.tokens = 0
        self.total = torch.zeros((), dtype=torch.float64)

    def update(self, before: Hidden, after: Hidden) -> None:
        """Add a batch `[samples, length, hidden]`."""
        # [samples, length], in float64: cosines are near 1, and 1 - cosine would lose its digits
        cosine: Tensor = cosine_similarity(before.double(), after.double(), dim=-1)
        self.total = self.total + (1 - cosine).sum().cpu()
        self.tokens += cosine.numel()

    @property
    def value(self) -> float:
        """0 where the block does nothing. Raises CalibrationError without tokens, or with NaN."""
        if self.tokens == 0 or not torch.isfinite(self.total):
            raise CalibrationError("a block's calibration activations are missing or hold NaN: try --dtype float32")
        return float(self.total) / self.tokens

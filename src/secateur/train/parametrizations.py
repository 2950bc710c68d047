"""Weights that train without bringing back what was pruned: in full, or by a low-rank change."""

import torch
from torch import Tensor, nn

from secateur.core.seed import generator

__all__ = ["Kept", "LoRA"]


class Kept(nn.Module):
    """The weight itself, with its zeros held at zero."""

    def __init__(self, weight: Tensor) -> None:
        """Remember where the weight is zero."""
        super().__init__()
        self.keep = (weight != 0).to(weight.dtype)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight where it was kept; no gradient reaches the rest."""
        return weight * self.keep


class LoRA(nn.Module):
    """W + B A where W is kept (Hu et al. 2022): B `[rows, rank]` starts at zero, A `[rank, columns]` at random."""

    def __init__(self, weight: Tensor, rank: int, name: str) -> None:
        """The name fixes A's random numbers."""
        super().__init__()
        rows, columns = weight.shape
        rank = min(rank, rows, columns)
        start = torch.randn(rank, columns, generator=generator(0, "low rank", name)) / columns**0.5
        self.down = nn.Parameter(start.to(weight))
        self.up = nn.Parameter(torch.zeros(rows, rank).to(weight))
        self.keep = (weight != 0).to(weight.dtype)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with its change."""
        return weight + (self.up @ self.down) * self.keep

"""Weights that train without bringing back what was pruned: in full, or by a low-rank change."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from secateur.adapt.layer import Layer
from secateur.core.seed import generator

__all__ = ["Changes", "Kept", "LoRA", "keep_zeros_"]


def keep_zeros_(model: nn.Module) -> None:
    """Let zeros in matrices and kernels get no gradient: by descent that starts with no momentum they stay zeros."""
    for value in model.parameters():
        if value.dim() > 1 and bool((value == 0).any()):
            keep = (value != 0).to(value.dtype)
            value.requires_grad_(True).register_hook(keep.mul)


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
        start = torch.randn(rank, columns, generator=generator(0, "low rank", name)) / columns**0.5  # [rank, in]
        self.down = nn.Parameter(start.to(weight))
        self.up = nn.Parameter(torch.zeros(rows, rank).to(weight))
        self.keep = (weight != 0).to(weight.dtype)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with its change."""
        return weight + (self.up @ self.down) * self.keep  # [out, rank] @ [rank, in]


class Changes:
    """Layers whose weights train, in full or by a change of low rank, until they are settled."""

    def __init__(self, layers: Sequence[Layer], rank: int = 0) -> None:
        """rank: of every change; 0 trains the weights themselves."""
        self.layers = list(layers)
        self.parameters: list[nn.Parameter] = []
        for layer in self.layers:
            weight = layer.module.get_parameter("weight")
            change = LoRA(weight, rank, layer.name) if rank else Kept(weight)
            parametrize.register_parametrization(layer.module, "weight", change)  # keeps the weight's own Parameter
            self.parameters += list(change.parameters()) or [weight]

    def settle(self) -> dict[str, Tensor]:
        """Merge every change into its weight; return the stored weights by layer name."""
        for layer in self.layers:
            parametrize.remove_parametrizations(layer.module, "weight", leave_parametrized=True)
        return {layer.name: layer.module.get_parameter("weight").detach() for layer in self.layers}

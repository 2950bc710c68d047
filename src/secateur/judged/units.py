"""MaskedUnits: a whole model that SlimGPT prunes at any ratios, on the dense model's Grams, and its held-out loss."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from secateur.adapt.structure import Structure
from secateur.calibrate.statistic import Gram
from secateur.core.protocols import Pattern
from secateur.evaluate.perplexity import mean_loss
from secateur.solve.slimgpt import SlimGPT

__all__ = ["MaskedUnits"]

TargetsOf = Callable[[Mapping[str, float]], Mapping[str, tuple[Pattern, float]]]


def _known(gram: Tensor) -> Any:
    """Statistics that hold a Gram and nothing else."""
    return {Gram: SimpleNamespace(value=gram)}


class MaskedUnits:
    """A model in memory, with the dense last matrices of attention and ffn and the Grams of their inputs beside it."""

    def __init__(self, structure: Structure, grams: Mapping[str, Tensor], held: Tensor, targets: TargetsOf) -> None:
        """grams: of the inputs of every layer that loses columns. held: windows `[samples, length]` that judge.

        targets: the pattern and ratio of every layer that loses units at ratios by layer name, as `prune` rounds them.
        The structure's model is masked from then on.
        """
        device = structure.model.device
        self.structure, self.targets, self.held = structure, targets, held.to(device)
        self.layers = {layer.name: layer for layer in structure.layers if layer.name in grams}
        self.stats = {name: _known(grams[name].to(device)) for name in self.layers}
        self.dense = {name: layer.weight.float().clone() for name, layer in self.layers.items()}
        self.told: dict[str, float] = {}

    def loss(self, ratios: Mapping[str, float], label: str) -> float:
        """Mean loss on the held-out windows, nats a token; noted under the label. Raises RatioError as prune does."""
        self.mask_(ratios)
        self.told[label] = mean_loss(self.structure.model, self.held)
        return self.told[label]

    @torch.no_grad()
    def mask_(self, ratios: Mapping[str, float]) -> None:
        """Take units off the dense weights, and repair what is left of their matrices."""
        targets = self.targets(ratios)
        for name, layer in self.layers.items():
            weight = self.dense[name]
            if name in targets:
                pattern, ratio = targets[name]
                weight = SlimGPT().solve(weight, self.stats[name], pattern, ratio).weight
            layer.set_weight(weight)

"""Gradients of the language-model loss: one backward pass of the whole model a sample."""

from collections.abc import Collection
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from secateur.adapt.adapter import Adapter
from secateur.core.errors import CalibrationError
from secateur.core.protocols import Statistic
from secateur.core.shapes import Activations, TokenIds, Weight

__all__ = ["BackwardSum", "Gradient", "layer_gradients"]

B = TypeVar("B", bound="BackwardSum")


class BackwardSum(Statistic):
    """What backward passes gave, summed over samples; no forward pass adds to it."""

    def __init__(self, total: Tensor | None = None, samples: int = 0) -> None:
        """Take the sum over that many samples."""
        self.total = total
        self.samples = samples

    def update(self, x: Activations) -> None:
        """Inputs say nothing of gradients: those come from a backward pass of the whole model."""

    def merge(self: B, other: B) -> B:
        """The sum over both sets of samples."""
        if self.total is None or other.total is None:
            return self if other.total is None else other
        return type(self)(self.total + other.total, self.samples + other.samples)


class Gradient(BackwardSum):
    """The mean gradient of the loss with respect to a weight, `[out, in]`."""

    @property
    def value(self) -> Weight:
        """The mean. Raises CalibrationError without samples, or with NaN or inf."""
        if self.total is None or self.samples == 0:
            raise CalibrationError("no gradient was gathered for this layer: use more samples")
        if not torch.isfinite(self.total).all():
            raise CalibrationError("gradients hold NaN or inf: try --dtype float32")
        return self.total / self.samples


def layer_gradients(adapter: Adapter, ids: TokenIds, names: Collection[str]) -> dict[str, Tensor]:
    """Summed gradients `[out, in]` of these layers, by name; ids `[samples, length]`, one at a time.

    The whole model is in memory, and so are the activations of one sample.
    """
    layers = {layer.name: layer for layer in adapter.layers() if layer.name in names}
    weights = [layer.module.get_parameter("weight").requires_grad_(True) for layer in layers.values()]
    for sample in ids.split(1):
        logits = adapter.model(sample, use_cache=False).logits[0, :-1].float()
        torch.autograd.backward(cross_entropy(logits, sample[0, 1:]), inputs=weights)
    gradients: dict[str, Tensor] = {}
    for (name, layer), weight in zip(layers.items(), weights, strict=True):
        gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
        gradients[name] = (gradient.T if layer.transposed else gradient).float().contiguous()
        weight.requires_grad_(False).grad = None
    return gradients

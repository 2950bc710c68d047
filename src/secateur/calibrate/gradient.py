"""Gradients of the language-model loss with respect to weights."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from secateur.adapt.layer import Layer
from secateur.adapt.structure import Structure
from secateur.calibrate.backward import BackwardSum, Read
from secateur.core.errors import CalibrationError
from secateur.core.shapes import Weight

__all__ = ["Gradient"]


class Gradient(BackwardSum):
    """The gradient of the loss with respect to a weight, `[out, in]`, summed over samples."""

    @property
    def value(self) -> Weight:
        """The sum, over `samples`. Raises CalibrationError without samples, or with NaN or inf."""
        if self.total is None or self.samples == 0:
            raise CalibrationError("no gradient was gathered for this layer: use more samples")
        if not torch.isfinite(self.total).all():
            raise CalibrationError("gradients hold NaN or inf: try --dtype float32")
        return self.total / self.samples

    @staticmethod
    @contextmanager
    def watch(structure: Structure, layers: Sequence[Layer]) -> Iterator[Read]:
        """Let the layers' weights gather gradients."""
        weights = {layer.name: layer.module.get_parameter(layer.parameter).requires_grad_(True) for layer in layers}

        def read() -> Mapping[str, Tensor]:
            return {layer.name: _gradient(layer, weights[layer.name]) for layer in layers}

        try:
            yield read
        finally:
            for weight in weights.values():
                weight.requires_grad_(False).grad = None


def _gradient(layer: Layer, weight: Tensor) -> Tensor:
    gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad  # a layer that no token reached
    return layer.seen(gradient).float().contiguous()  # [out, in]

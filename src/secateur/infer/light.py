"""Light weights: values for every parameter of a model that has none, in memory that does not grow with the model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.seed import generator

__all__ = ["light_weights"]

_SMALL = 1 << 16  # numbers up to which a parameter gets values of its own
_GAP = 2  # between the starts of a matrix's rows


@contextmanager
def light_weights(model: nn.Module, small: int = _SMALL) -> Iterator[None]:
    """Give every parameter random values for a while, and the old parameters back.

    small: larger parameters are windows over a short line of numbers: rows overlap, so a matrix of any size takes
    memory for its edges alone. What a block computes from what shows all the same.
    """
    stream = generator(0, "light")
    made: dict[int, nn.Parameter] = {}
    old: list[tuple[Any, str, nn.Parameter]] = []
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_floating_point():
                old.append((module, name, parameter))
                if id(parameter) not in made:  # tied parameters stay tied
                    value = _light(parameter, stream, small)
                    made[id(parameter)] = nn.Parameter(value, requires_grad=False)
    try:
        for module, name, parameter in old:
            module._parameters[name] = made[id(parameter)]
        yield
    finally:
        for module, name, parameter in old:
            module._parameters[name] = parameter


def _light(parameter: Tensor, stream: torch.Generator, small: int) -> Tensor:
    shape = tuple(parameter.shape)
    if len(shape) < 2:
        return torch.rand(shape, generator=stream) + 0.5  # scales and biases: positive, so that no norm vanishes
    scale = shape[-1] ** -0.5
    if parameter.numel() <= small:
        return torch.randn(shape, generator=stream) * scale
    strides = [1, _GAP]
    for _ in shape[:-2]:
        # Matrices of a stack do not overlap: where one begins tells which it is.
        strides.append(_GAP * shape[-2] + shape[-1] if len(strides) == 2 else strides[-1] * shape[-3])
    strides = strides[::-1]
    length = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    line = torch.randn(length, generator=stream) * scale
    return line.as_strided(shape, strides)

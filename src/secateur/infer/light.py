"""Light weights: values for every parameter of a model that has none, in memory that does not grow with the model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.core.seed import generator

__all__ = ["light_weights"]

_SMALL = 1 << 16  # numbers up to which a parameter gets values of its own
_GAP = 16  # numbers between where two parameters begin, or two matrices of a stack
_SCALE = 0.02  # what outputs of a few thousand inputs keep their size with
_PERIOD = 1_000_003  # a prime, so that rows of no usual width repeat


@contextmanager
def light_weights(model: nn.Module, small: int = _SMALL) -> Iterator[None]:
    """Give every parameter random values for a while, and the old parameters back; what modules cache goes too.

    small: larger parameters share the memory of the largest matrix there is, each from another place on; so do the
    matrices of a stack. What a block computes from what shows all the same.
    """
    held = [
        (module, name, parameter)
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and parameter.is_floating_point()
    ]
    pool = _Pool([parameter for _, _, parameter in held], small)
    made: dict[int, nn.Parameter] = {}
    caches = [(module, _attributes(module)) for module in model.modules()]
    try:
        for module, name, parameter in held:
            if id(parameter) not in made:  # tied parameters stay tied
                made[id(parameter)] = nn.Parameter(pool.light(parameter), requires_grad=False)
            module._parameters[name] = made[id(parameter)]
        yield
    finally:
        for module, name, parameter in held:
            module._parameters[name] = parameter
        for module, before in caches:
            _restore_(module, before)


def _attributes(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """A module's own attributes, and what its dicts and lists hold; torch's own bookkeeping is left out."""
    own = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    return {name: (value, value.copy() if type(value) in (dict, list) else None) for name, value in own.items()}


def _restore_(module: nn.Module, before: dict[str, tuple[Any, Any]]) -> None:
    """Attributes as they were: some classes keep what they made of their weights, as LeViT its attention biases."""
    for name in [name for name in vars(module) if not name.startswith("_") and name not in before]:
        del module.__dict__[name]
    for name, (value, content) in before.items():
        if type(value) is dict:
            value.clear()
            value.update(content)
        elif type(value) is list:
            value[:] = content
        module.__dict__[name] = value


class _Pool:
    """Random numbers that large parameters share."""

    def __init__(self, parameters: list[Any], small: int) -> None:
        self._small = small
        self._stream = generator(0, "light")
        large = {id(value): value for value in parameters if value.dim() > 1 and value.numel() > small}
        sizes = [_matrix(value) + _GAP * value[..., 0, 0].numel() for value in large.values()]
        period = torch.randn(_PERIOD, generator=self._stream).mul(_SCALE).numpy()
        self._numbers = np.resize(period, max(sizes, default=0) + _GAP * len(large))
        self._next = 0

    def light(self, parameter: Tensor) -> Tensor:
        """Values of a parameter's shape; those of a large one may not be changed, as others share them."""
        shape = tuple(parameter.shape)
        if len(shape) < 2:
            return torch.rand(shape, generator=self._stream) + 0.5  # positive, so that no norm vanishes
        if parameter.numel() <= self._small:
            return torch.randn(shape, generator=self._stream) * shape[-1] ** -0.5
        # A storage of its own over the same memory: where it begins tells which parameter it is.
        line = torch.frombuffer(self._numbers, dtype=torch.float32, offset=4 * self._next)
        self._next += _GAP
        strides, step = [1, shape[-1]], _GAP
        for size in reversed(shape[:-2]):
            strides.append(step)
            step *= size
        return line.as_strided(shape, strides[::-1])


def _matrix(parameter: Tensor) -> int:
    return parameter.shape[-1] * parameter.shape[-2]

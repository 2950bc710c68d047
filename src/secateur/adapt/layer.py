"""Layer: one weight seen as `[out, in]`, whatever module holds it and however it is stored."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from secateur.adapt.site import Slice
from secateur.core.errors import ModelError
from secateur.core.shapes import Weight

__all__ = ["Layer"]


class _Storage(NamedTuple):
    """How one kind of module stores its weight, and where it keeps the sizes."""

    matrix: Callable[[Tensor], Tensor]  # stored -> [out, in]
    stored: Callable[[Tensor, Any], Tensor]  # [out, in] and the module -> stored
    settle: Callable[[Any, int, int], None]  # tell the module its new rows and columns


def _sizes(out: str, into: str) -> Callable[[Any, int, int], None]:
    def settle(module: Any, rows: int, columns: int) -> None:
        setattr(module, out, rows)
        setattr(module, into, columns)

    return settle


def _settle_convolution(module: Any, rows: int, columns: int) -> None:
    """Inputs are counted over all groups; a depthwise convolution has as many groups as it reads channels."""
    each = columns // prod(module.kernel_size)
    if module.groups > 1 and module.groups == module.in_channels:
        module.groups = rows // (module.out_channels // module.groups)  # depthwise: as many groups as channels stay
    module.in_channels, module.out_channels = each * module.groups, rows


def _settle_norm(module: Any, rows: int, columns: int) -> None:
    module.num_features = rows


_LINEAR = _Storage(lambda stored: stored, lambda matrix, module: matrix, _sizes("out_features", "in_features"))
_TURNED = _Storage(lambda stored: stored.T, lambda matrix, module: matrix.T, _sizes("nf", "nx"))
_EMBEDDING = _TURNED._replace(settle=_sizes("embedding_dim", "num_embeddings"))
_CONVOLUTION = _Storage(
    lambda stored: stored.flatten(1),
    lambda matrix, module: matrix.reshape(len(matrix), -1, *module.kernel_size),
    _settle_convolution,
)
_NORM = _Storage(lambda stored: stored[:, None], lambda matrix, module: matrix[:, 0], _settle_norm)

# The one place that knows how modules store weights.
_STORAGES: Mapping[type[nn.Module], _Storage] = {
    nn.Linear: _LINEAR,
    Conv1D: _TURNED,
    nn.Embedding: _EMBEDDING,
    nn.Conv1d: _CONVOLUTION,
    nn.Conv2d: _CONVOLUTION,
    nn.BatchNorm1d: _NORM,
    nn.BatchNorm2d: _NORM,
}
_STATISTICS = ("running_mean", "running_var")  # a batch norm's own, one a row


@dataclass(frozen=True)
class Layer:
    """One weight of a model, seen as `[out, in]`.

    A convolution is `[out, in / groups * kernel]`, a batch norm `[channels, 1]`, an embedding `[hidden, vocab]`.
    index: which matrix of a 3-D `parameter` (an expert's) this is; turned: it is stored as `[in, out]`.
    Raises ModelError on modules of other kinds.
    """

    name: str
    module: nn.Module
    parameter: str = "weight"
    index: int | None = None
    turned: bool = False

    @property
    def _storage(self) -> _Storage:
        if self.index is not None:
            return _TURNED if self.turned else _LINEAR
        for kind in type(self.module).__mro__:  # subclasses store as their parent does
            if kind in _STORAGES:
                return _STORAGES[kind]
        raise ModelError(
            f"{self.name} is a {type(self.module).__name__}, and weights are known of "
            f"{', '.join(kind.__name__ for kind in _STORAGES)}"
        )

    @property
    def transposed(self) -> bool:
        """Whether the module stores `[in, out]` (GPT-2's Conv1D, embeddings)."""
        return self._storage.matrix is _TURNED.matrix

    def _held(self) -> Tensor:
        """The weight as it is stored."""
        held = self.module.get_parameter(self.parameter).detach()
        return held if self.index is None else held[self.index]

    @property
    def weight(self) -> Weight:
        """The weight as `[out, in]`."""
        return self._storage.matrix(self._held())

    def set_weight(self, weight: Weight) -> None:
        """Overwrite the module's weight from `[out, in]`, in its own dtype and layout."""
        self._held().copy_(self._storage.stored(weight, self.module))

    @property
    def bias(self) -> Tensor | None:
        """The bias `[out]`, where there is one."""
        bias = None if self.index is not None else getattr(self.module, "bias", None)
        return None if bias is None else bias.detach()

    def set_bias(self, bias: Tensor) -> None:
        """Overwrite the bias `[out]`, or give the module one, in its weight's dtype."""
        module: Any = self.module
        # Training asks for gradients itself.
        module.bias = nn.Parameter(bias.to(module.weight.dtype), requires_grad=False)

    @property
    def size(self) -> int:
        """Parameters, the bias included."""
        return self.weight.numel() + (0 if self.bias is None else self.bias.numel())

    def replace_(self, weight: Tensor, bias: Tensor | None) -> None:
        """Put in a weight `[out, in]` and bias `[out]` of another shape.

        Raises ModelError on one matrix of a 3-D parameter: the others have its shape.
        """
        if self.index is not None:
            raise ModelError(f"{self.name} shares a parameter with other matrices, which all have one shape")
        module: Any = self.module
        stored = self._storage.stored(weight, module).contiguous()  # a transposed view cannot be saved
        setattr(module, self.parameter, nn.Parameter(stored, requires_grad=False))
        if bias is not None:
            module.bias = nn.Parameter(bias, requires_grad=False)
        self._storage.settle(module, *weight.shape)

    def reshape_(self, rows: int, columns: int) -> None:
        """Take another shape `[out, in]`, without values."""
        bias = self.bias
        self.replace_(self.weight.new_empty(rows, columns), None if bias is None else bias.new_empty(rows))

    def cut_(self, gone: Slice) -> None:
        """Take these rows and columns off the weight, and the rows off whatever else the module has one of a row."""
        bias = self.bias
        self.replace_(gone.cut(self.weight), None if bias is None else gone.cut(bias))
        for name in _STATISTICS:
            values = getattr(self.module, name, None)
            if isinstance(values, torch.Tensor):
                setattr(self.module, name, gone.cut(values))

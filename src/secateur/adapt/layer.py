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

__all__ = ["Layer", "cut_by_groups"]


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
    """Inputs are counted over all groups; a convolution that is cut by whole groups has fewer of them."""
    each = columns // prod(module.kernel_size)
    if cut_by_groups(module):
        module.groups = rows // (module.out_channels // module.groups)
    module.in_channels, module.out_channels = each * module.groups, rows


def cut_by_groups(module: Any) -> bool:
    """Whether a grouped convolution is cut by whole groups, as a depthwise one is; others lose places of every group.

    Whichever gives more units: its groups, or the channels that each of them reads.
    """
    return bool(module.groups > 1 and module.groups > module.in_channels // module.groups)


def _settle_slopes(module: Any, rows: int, columns: int) -> None:
    module.num_parameters = rows


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
_TRANSPOSED = _Storage(
    lambda stored: stored.transpose(0, 1).flatten(1),
    lambda matrix, module: matrix.reshape(len(matrix), -1, *module.kernel_size).transpose(0, 1),
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
    nn.Conv3d: _CONVOLUTION,
    nn.ConvTranspose1d: _TRANSPOSED,
    nn.ConvTranspose2d: _TRANSPOSED,
    nn.ConvTranspose3d: _TRANSPOSED,
    nn.modules.batchnorm._BatchNorm: _NORM,
    nn.PReLU: _NORM._replace(settle=_settle_slopes),
}


def _bare(shape: torch.Size, axis: int) -> _Storage:
    """A parameter or buffer that a model uses directly: rows along one of its dimensions."""
    rest = [size for dim, size in enumerate(shape) if dim != axis]
    return _Storage(
        lambda stored: stored.movedim(axis, 0).reshape(shape[axis], prod(rest)),
        lambda matrix, module: matrix.reshape(-1, *rest).movedim(0, axis),
        lambda module, rows, columns: None,
    )


_STATISTICS = ("running_mean", "running_var")  # a batch norm's own, one a row


@dataclass(frozen=True)
class Layer:
    """One weight of a model, seen as `[out, in]`.

    A convolution is `[out, in / groups * kernel]`, a batch norm `[channels, 1]`, an embedding `[hidden, vocab]`.
    index: which matrix of a 3-D `parameter` (an expert's) this is. turned: a `parameter` that a model uses directly
    is stored as `[in, out]`; None where a module of a known kind holds it.
    axis: the dimension of a bare parameter or buffer, of a module of any kind, that holds the rows.
    Raises ModelError on modules of other kinds.
    """

    name: str
    module: nn.Module
    parameter: str = "weight"
    index: int | None = None
    turned: bool | None = None
    axis: int | None = None

    @property
    def _storage(self) -> _Storage:
        if self.index is not None or self.turned is not None:
            return _TURNED if self.turned else _LINEAR
        if self.axis is not None:
            return _bare(self._held().shape, self.axis)
        for kind in type(self.module).__mro__:
            if kind in _STORAGES:
                return _STORAGES[kind]
        raise ModelError(
            f"{self.name} is a {type(self.module).__name__}, and weights are known of "
            f"{', '.join(kind.__name__ for kind in _STORAGES)}"
        )

    @property
    def tensor(self) -> str:
        """The model's name of the parameter that holds this weight: several matrices may share one."""
        if self.index is not None:
            return self.name.rpartition(".")[0]
        return self.name if self.turned is not None else f"{self.name}.{self.parameter}"

    @property
    def transposed(self) -> bool:
        """Whether the module stores `[in, out]` (GPT-2's Conv1D, embeddings)."""
        return self._storage.matrix is _TURNED.matrix

    @property
    def is_matrix(self) -> bool:
        """Whether rows are made from columns: no norm, no slope, and no bare parameter."""
        return self.axis is None and self._storage.matrix is not _NORM.matrix

    def _held(self) -> Tensor:
        """The weight as it is stored."""
        held = getattr(self.module, self.parameter).detach()
        return held if self.index is None else held[self.index]

    @property
    def weight(self) -> Weight:
        """The weight as `[out, in]`."""
        return self._storage.matrix(self._held())

    def seen(self, stored: Tensor) -> Tensor:
        """A tensor of the weight's stored shape, such as its gradient, as `[out, in]`."""
        return self._storage.matrix(stored if self.index is None else stored[self.index])

    def stored(self, matrix: Weight) -> Tensor:
        """A matrix `[out, in]`, such as a mask, in the layout that the module stores its weight in."""
        return self._storage.stored(matrix, self.module)

    def set_weight(self, weight: Weight) -> None:
        """Overwrite the module's weight from `[out, in]`, in its own dtype and layout."""
        self._held().copy_(self.stored(weight))

    @property
    def bias(self) -> Tensor | None:
        """The bias `[out]`, where there is one."""
        bare = self.index is not None or self.turned is not None or self.axis is not None
        bias = None if bare else getattr(self.module, "bias", None)
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
        held = getattr(module, self.parameter)
        stored = self._storage.stored(weight, module).contiguous()  # a transposed view cannot be saved
        if isinstance(held, nn.Parameter):
            stored = nn.Parameter(stored, requires_grad=held.requires_grad)
        self._storage.settle(module, *weight.shape)  # reads the storage, which has the old shape till here
        setattr(module, self.parameter, stored)
        if bias is not None:
            module.bias = nn.Parameter(bias, requires_grad=held.requires_grad)

    def reshape_(self, rows: int, columns: int) -> None:
        """Take another shape `[out, in]`, without values."""
        bias = self.bias
        self.replace_(self.weight.new_empty(rows, columns), None if bias is None else bias.new_empty(rows))

    def cut_(self, gone: Slice) -> None:
        """Take these rows and columns off the weight, and the rows off whatever else the module has one of a row."""
        if getattr(self.module, self.parameter) is None:  # a norm without a weight of its own
            module: Any = self.module
            self._storage.settle(module, len(gone.kept(module.num_features, 1)[0]), 1)
        else:
            bias = self.bias
            self.replace_(gone.cut(self.weight), None if bias is None else gone.cut(bias))
        for name in _STATISTICS:
            values = getattr(self.module, name, None)
            if isinstance(values, torch.Tensor):
                setattr(self.module, name, gone.cut(values))

    def move_rows_(self, to: Tensor, by: Tensor) -> None:
        """Put rows `by` at rows `to` of the weight, and of whatever else the module has one of a row."""
        if getattr(self.module, self.parameter) is not None:
            weight = self.weight.clone()
            weight[to] = self.weight[by]
            self.set_weight(weight)
        if self.axis is not None:  # a bare parameter has nothing else
            return
        for values in (self.bias, *(getattr(self.module, name, None) for name in _STATISTICS)):
            if values is not None:
                values[to] = values[by]

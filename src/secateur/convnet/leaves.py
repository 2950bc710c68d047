"""Modules that hold weights: which labels their rows and columns have, and what labels come out."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from secateur.adapt.layer import cut_by_groups
from secateur.convnet.labels import NOTHING, Labels, LabelTensor

__all__ = ["LEAVES", "Leaves"]


class Leaves:
    """The rows and columns of every weight-bearing module, as labels."""

    def __init__(self, labels: Labels) -> None:
        """Start with no module."""
        self.labels = labels
        self.rows: dict[str, LabelTensor] = {}
        self.columns: dict[str, LabelTensor] = {}
        self.positions: dict[str, int] = {}

    def ran(self, name: str, module: nn.Module, own: LabelTensor | None, given: Tensor, out: Tensor) -> Any:
        """Note one call of a module; return the labels of its output."""
        if parametrize.is_parametrized(module) or "weight" not in module._parameters:
            self.labels.freeze(own, f"the computed weight of {name}")
            return None
        rule = next(LEAVES[kind] for kind in type(module).__mro__ if kind in LEAVES)
        return rule(self, name, module, own, given, out)

    def _vector(self, own: LabelTensor | None, given: Tensor, dim: int) -> LabelTensor:
        """One label for each place of the dimension that a module reads."""
        if own is None:
            return torch.full((given.shape[dim],), NOTHING)
        others = [other for other in range(given.dim()) if other != dim % given.dim()]
        return self.labels.join_along(own, others).flatten()

    def _rows(self, name: str, count: int) -> LabelTensor:
        if name not in self.rows:
            self.rows[name] = self.labels.fresh(count)
        return self.rows[name]

    def _reads(self, name: str, vector: LabelTensor) -> None:
        """Columns of a module; one that runs again reads the same channels."""
        if name in self.columns:
            self.labels.join(self.columns[name], vector)
            lone = (self.columns[name] == NOTHING) != (vector == NOTHING)
            self.labels.freeze(torch.maximum(self.columns[name], vector)[lone], f"{name}, which runs twice")
        else:
            self.columns[name] = vector

    def _convolution(self, name: str, module: Any, own: Any, given: Tensor, out: Tensor) -> LabelTensor:
        channel = -1 - len(module.kernel_size)
        self._count(name, out, channel)
        vector = self._vector(own, given, channel)
        rows, groups = self._rows(name, module.out_channels), module.groups
        if groups == 1:
            self._reads(name, vector)
        else:
            made, read = rows.reshape(groups, -1), vector.reshape(groups, -1)
            whole = cut_by_groups(module)
            if whole:
                self.labels.join_along(torch.cat([made, read], dim=1), [1])
            else:
                self.labels.join_along(made, [0])
                self._reads(name, self.labels.join_along(read, [0]).flatten())
            lone = (read == NOTHING).any(dim=int(whole))
            held = torch.cat([read, made], dim=1)[lone] if whole else read[:, lone]
            self.labels.freeze(held.flatten(), f"groups of {name}, which read what cannot be removed")
        shape = [1] * out.dim()
        shape[channel] = -1
        return rows.reshape(shape).expand(out.shape)

    def _transposed(self, name: str, module: Any, own: Any, given: Tensor, out: Tensor) -> LabelTensor | None:
        if module.groups > 1:
            self.labels.freeze(own, f"{name}, a grouped transposed convolution")
            return None
        return self._convolution(name, module, own, given, out)

    def _linear(self, name: str, module: Any, own: Any, given: Tensor, out: Tensor) -> LabelTensor:
        self._count(name, out, -1)
        self._reads(name, self._vector(own, given, -1))
        return self._rows(name, module.out_features).expand(out.shape)

    def _norm(self, name: str, module: Any, own: Any, given: Tensor, out: Tensor) -> LabelTensor | None:
        if own is None:
            return None
        vector = self._vector(own, given, 1)
        if name in self.rows:
            self.labels.join(self.rows[name], vector)
        self.rows.setdefault(name, vector)
        return own

    def _one_slope(self, name: str, module: Any, own: Any, given: Tensor, out: Tensor) -> LabelTensor | None:
        """A PReLU with a slope for every channel is cut as a norm is."""
        return own if module.num_parameters == 1 else self._norm(name, module, own, given, out)

    def _count(self, name: str, out: Tensor, channel: int) -> None:
        each = out.numel() // max(out.shape[0] * out.shape[channel], 1)
        self.positions[name] = self.positions.get(name, 0) + each


_Rule = Callable[[Leaves, str, Any, Any, Tensor, Tensor], Any]
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
LEAVES: Mapping[type[nn.Module], _Rule] = {
    **dict.fromkeys(_CONVOLUTIONS, Leaves._convolution),
    **dict.fromkeys(_TRANSPOSED, Leaves._transposed),
    **dict.fromkeys(_NORMS, Leaves._norm),
    nn.Linear: Leaves._linear,
    nn.PReLU: Leaves._one_slope,
}

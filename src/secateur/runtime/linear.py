"""Linear layers with packed weights, 2:4 or with zeros anywhere, in place of a model's own."""

import logging
from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.runtime import bitmask, two_four
from secateur.runtime.bitmask import PAYS_FROM, Bitmask
from secateur.runtime.two_four import MOST_VECTORS, TwoFour, is_two_four

__all__ = ["RUNTIMES", "Replaced", "SparseLinear", "use_runtime_"]

RUNTIMES = ("2:4", "bitmask")
_log = logging.getLogger(__name__)


class SparseLinear(nn.Module):
    """A linear layer whose weight is packed: its tensors are buffers, such as `values`, and so is `bias`.

    Up to 8 vectors are multiplied by compiled code. More of them, as of a prompt, are multiplied by the weight, which
    is unpacked for the call: at that size unpacking costs little beside the product.
    """

    def __init__(self, packed: TwoFour | Bitmask, bias: Tensor | None) -> None:
        """bias: `[out]`, or None."""
        super().__init__()
        self.rows, self.kind = packed.rows, type(packed)
        for name in _tensors(packed):
            tensor = getattr(packed, name)
            # Bits, not numbers: a model that is cast to another dtype must leave them alone.
            self.register_buffer(name, tensor.view(torch.int16) if tensor.is_floating_point() else tensor)
        self.register_buffer("bias", None if bias is None else bias.detach())

    @property
    def packed(self) -> TwoFour | Bitmask:
        """The weight."""
        kind: Any = self.kind
        values, *places = (self.get_buffer(name) for name in _tensors(kind))
        made: TwoFour | Bitmask = kind(values.view(torch.bfloat16), *places, self.rows)
        return made

    @property
    def weight(self) -> Tensor:
        """The weight `[out, in]`, unpacked."""
        return self.packed.unpack()

    def forward(self, x: Tensor) -> Tensor:
        """`[..., out]` of `[..., in]`, in the input's dtype."""
        packed, bias = self.packed, self._buffers["bias"]
        if x.shape[-1] != packed.columns:
            raise InputError(f"a packed layer of {packed.columns} inputs got {list(x.shape)}: the last size is another")
        vectors = x.reshape(-1, x.shape[-1])
        learning = torch.is_grad_enabled() and x.requires_grad  # compiled code has no gradient
        if x.device.type == "cpu" and not learning and 0 < len(vectors) <= MOST_VECTORS and _compiled(self.kind):
            out = packed.product(vectors)
            out = out if bias is None else out + bias.float()
            return out.to(x.dtype).reshape(*x.shape[:-1], self.rows)
        own = None if bias is None else bias.to(x.dtype)
        return nn.functional.linear(x, packed.unpack().to(x.dtype), own)

    def extra_repr(self) -> str:
        """Sizes, as of other linear layers."""
        return f"in_features={self.packed.columns}, out_features={self.rows}, packed={self.kind.__name__}"


def _compiled(kind: type) -> bool:
    return two_four.runs_here() if kind is TwoFour else bitmask.runs_here()


def _tensors(packed: TwoFour | Bitmask | type[TwoFour] | type[Bitmask]) -> list[str]:
    """Names of the fields that are tensors: all but the last."""
    return [field.name for field in fields(packed)][:-1]


class Replaced(NamedTuple):
    """How many layers were replaced, and the bytes of their weights before (as bfloat16) and after."""

    layers: int
    dense_bytes: int
    packed_bytes: int


@torch.no_grad()
def use_runtime_(model: nn.Module, runtime: str = "2:4") -> Replaced:
    """Replace every linear layer whose weight is 2:4, or has enough zeros for bitmask to pay, by a packed one.

    Raises InputError for a runtime that is not known, and where no layer is such.
    """
    if runtime not in RUNTIMES:
        raise InputError(f"runtime {runtime!r} is unknown: take {', '.join(RUNTIMES)}")
    kind, fits, remedy = (
        (TwoFour, is_two_four, "is 2:4: prune it with --pattern 2:4 first")
        if runtime == "2:4"
        else (Bitmask, _pays, f"has {PAYS_FROM:.0%} of zeros: prune it with a higher ratio first")
    )
    if not _compiled(kind):
        _log.warning("no compiled product here (no C++ compiler, or no AVX2): weights are packed, and not faster")
    found = [
        (parent, name, own)
        for parent in model.modules()
        for name, own in parent.named_children()
        if type(own) is nn.Linear and fits(own.weight)
    ]
    if not found:
        raise InputError(f"no linear layer of the model {remedy}")
    dense = packed = 0
    for parent, name, own in found:
        made = SparseLinear(kind.pack(own.weight), own.bias)
        dense, packed = dense + 2 * own.weight.numel(), packed + made.packed.bytes
        setattr(parent, name, made)
    return Replaced(len(found), dense, packed)


def _pays(weight: Tensor) -> bool:
    return weight.numel() > 0 and float((weight == 0).sum()) >= PAYS_FROM * weight.numel()

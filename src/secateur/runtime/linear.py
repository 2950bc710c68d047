"""Linear layers with packed 2:4 weights in place of a model's own."""

import logging
from typing import NamedTuple

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.runtime.two_four import MOST_VECTORS, TwoFour, is_two_four, runs_here

__all__ = ["RUNTIMES", "Replaced", "SparseLinear", "use_runtime_"]

RUNTIMES = ("2:4",)
_log = logging.getLogger(__name__)


class SparseLinear(nn.Module):
    """A linear layer whose weight is packed: buffers `values`, `places` and `bias`.

    Up to 8 vectors are multiplied by compiled code. More of them, as of a prompt, are multiplied by the weight, which
    is unpacked for the call: at that size unpacking costs little beside the product.
    """

    def __init__(self, packed: TwoFour, bias: Tensor | None) -> None:
        """bias: `[out]`, or None."""
        super().__init__()
        self.rows = packed.rows
        self.register_buffer("values", packed.values)
        self.register_buffer("places", packed.places)
        self.register_buffer("bias", None if bias is None else bias.detach())

    @property
    def packed(self) -> TwoFour:
        """The weight."""
        return TwoFour(self.get_buffer("values"), self.get_buffer("places"), self.rows)

    @property
    def weight(self) -> Tensor:
        """The weight `[out, in]`, unpacked."""
        return self.packed.unpack()

    def forward(self, x: Tensor) -> Tensor:
        """`[..., out]` of `[..., in]`, in the input's dtype."""
        packed, bias = self.packed, self._buffers["bias"]
        vectors = x.reshape(-1, x.shape[-1])
        if x.device.type == "cpu" and len(vectors) <= MOST_VECTORS and runs_here():
            out = packed.product(vectors)
            out = out if bias is None else out + bias.float()
            return out.to(x.dtype).reshape(*x.shape[:-1], -1)
        own = None if bias is None else bias.to(x.dtype)
        return nn.functional.linear(x, packed.unpack().to(x.dtype), own)

    def extra_repr(self) -> str:
        """Sizes, as of other linear layers."""
        return f"in_features={self.packed.columns}, out_features={self.rows}, pattern=2:4"


class Replaced(NamedTuple):
    """How many layers were replaced, and the bytes of their weights before (as bfloat16) and after."""

    layers: int
    dense_bytes: int
    packed_bytes: int


@torch.no_grad()
def use_runtime_(model: nn.Module, runtime: str = "2:4") -> Replaced:
    """Replace every linear layer whose weight is 2:4 by a packed one.

    Raises InputError for a runtime that is not known, and where no layer is 2:4.
    """
    if runtime not in RUNTIMES:
        raise InputError(f"runtime {runtime!r} is unknown: take {', '.join(RUNTIMES)}")
    if not runs_here():
        _log.warning("no compiled 2:4 product here (no C++ compiler, or no AVX2): weights are packed, and not faster")
    found = [
        (parent, name, own)
        for parent in model.modules()
        for name, own in parent.named_children()
        if type(own) is nn.Linear and is_two_four(own.weight)
    ]
    if not found:
        raise InputError("no linear layer of the model is 2:4: prune it with --pattern 2:4 first")
    dense = packed = 0
    for parent, name, own in found:
        made = SparseLinear(TwoFour.pack(own.weight), own.bias)
        dense, packed = dense + 2 * own.weight.numel(), packed + made.packed.bytes
        setattr(parent, name, made)
    return Replaced(len(found), dense, packed)

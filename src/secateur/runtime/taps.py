"""use_taps_(model): depthwise convolutions that read the taps they keep and no others, by a Triton kernel."""

import logging
import os
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.runtime.blocked import BLOCK

__all__ = ["KeptTaps", "use_taps_"]

_TILE = 128  # pixels of a program
_log = logging.getLogger(__name__)


class _Reads(NamedTuple):
    """Rows and columns that a convolution puts out for pictures of one size, and zeros above and left of its first."""

    high: int
    wide: int
    top: int
    left: int


class KeptTaps(nn.Module):
    """A depthwise convolution over the taps that runs of 16 channels keep.

    On a GPU, and in Triton's interpreter (TRITON_INTERPRET=1), a kernel computes it; elsewhere the convolution itself.
    """

    def __init__(self, dense: nn.Conv2d) -> None:
        """Take the place of a convolution that has a kernel for each channel."""
        super().__init__()
        self.dense = dense
        channels, kernel = dense.out_channels, dense.weight[0, 0].numel()
        runs = -(-channels // BLOCK)
        weight = dense.weight.detach().new_zeros(runs * BLOCK, kernel)
        weight[:channels] = dense.weight.detach().flatten(1)
        kept = weight.view(runs, BLOCK, kernel).any(dim=1)  # [runs, taps]
        run, tap = kept.nonzero(as_tuple=True)
        wide = dense.weight.shape[3]
        counts = kept.sum(dim=1).cumsum(0)
        self.kept, self.all = int(kept.sum()) * BLOCK, runs * BLOCK * kernel
        self.register_buffer("spans", torch.cat([counts.new_zeros(1), counts]).int(), persistent=False)
        self.register_buffer("tops", (tap // wide * dense.dilation[0]).int(), persistent=False)
        self.register_buffer("lefts", (tap % wide * dense.dilation[1]).int(), persistent=False)
        self.register_buffer("weights", weight.view(runs, BLOCK, kernel)[run, :, tap].float(), persistent=False)
        bias = weight.new_zeros(channels) if dense.bias is None else dense.bias.detach().clone()
        self.register_buffer("bias", bias.float(), persistent=False)
        self._known: dict[tuple[int, int], _Reads] = {}

    def forward(self, x: Tensor) -> Tensor:
        """What the convolution gives, `[pictures, channels, h, w]`; no gradient reaches the kernel."""
        if not x.is_cuda and not os.environ.get("TRITON_INTERPRET"):
            return self.dense(x)
        from secateur.runtime.taps_kernel import depthwise_taps

        x = x.contiguous()
        reads = self._reads(x)
        y = x.new_empty(len(x), self.dense.out_channels, reads.high, reads.wide)
        own: Any = self
        grid = (-(-reads.high * reads.wide // _TILE), len(own.spans) - 1, len(x))
        if not all(grid):
            return y
        depthwise_taps[grid](
            x, own.weights, own.bias, own.spans, own.tops - reads.top, own.lefts - reads.left, y, *x.shape[1:],
            reads.high, reads.wide, *self.dense.stride, size=BLOCK, span=_TILE,
        )  # fmt: skip
        return y

    @torch.no_grad()
    def _reads(self, x: Tensor) -> _Reads:
        """Found by a convolution with one tap on numbered pixels, as some pad by themselves."""
        size = (int(x.shape[2]), int(x.shape[3]))
        if size not in self._known:
            dense, (high, wide) = self.dense, size
            held = dense.weight.detach().clone(), None if dense.bias is None else dense.bias.detach().clone()
            tap = [(side - 1) // 2 for side in dense.weight.shape[2:]]
            numbered = torch.arange(1, high * wide + 1, dtype=torch.float64, device=x.device).view(1, 1, high, wide)
            try:
                dense.weight.zero_()[:, :, tap[0], tap[1]] = 1
                if dense.bias is not None:
                    dense.bias.zero_()
                dense.double()
                out = dense(numbered.expand(1, dense.in_channels, -1, -1))[0, 0]
            finally:
                dense.to(held[0].dtype)
                dense.weight.copy_(held[0])
                if dense.bias is not None and held[1] is not None:
                    dense.bias.copy_(held[1])
            places = (out > 0).nonzero()
            if not len(places):
                raise InputError(
                    f"pictures of {high} x {wide} are too small for a kernel of {list(dense.weight.shape[2:])}"
                )
            row, column = places[0].tolist()
            at = int(out[row, column]) - 1
            top = row * dense.stride[0] + tap[0] * dense.dilation[0] - at // wide
            left = column * dense.stride[1] + tap[1] * dense.dilation[1] - at % wide
            self._known[size] = _Reads(out.shape[0], out.shape[1], top, left)
        return self._known[size]


def use_taps_(model: nn.Module) -> int:
    """Replace every depthwise convolution of which runs of 16 channels have lost taps; how many there are.

    Raises InputError without Triton, and where no convolution has lost any.
    """
    try:
        import triton  # noqa: F401
    except ImportError as error:
        raise InputError("running kept taps on a GPU needs Triton: pip install triton") from error
    found = [
        (parent, name, KeptTaps(own))
        for parent in model.modules()
        for name, own in parent.named_children()
        if isinstance(own, nn.Conv2d) and own.groups == own.in_channels == own.out_channels > 1
        and own.padding_mode == "zeros"
    ]  # fmt: skip
    replaced = [(parent, name, made) for parent, name, made in found if made.kept < made.all]
    if not replaced:
        raise InputError("no depthwise convolution has lost taps in runs of 16: prune with --method deprune first")
    for parent, name, made in replaced:
        setattr(parent, name, made)
    if not torch.cuda.is_available() and not os.environ.get("TRITON_INTERPRET"):
        _log.warning("there is no GPU: torch computes depthwise convolutions as before")
    return len(replaced)

"""The Triton kernel of a depthwise convolution over kept taps; importing it needs Triton."""

from typing import Any

import triton
import triton.language as tl

__all__ = ["depthwise_taps"]


@triton.jit
def depthwise_taps(
    x: Any,
    weight: Any,
    bias: Any,
    spans: Any,
    tops: Any,
    lefts: Any,
    y: Any,
    channels: Any,
    high: Any,
    wide: Any,
    out_high: Any,
    out_wide: Any,
    down: Any,
    right: Any,
    size: tl.constexpr,
    span: tl.constexpr,
) -> None:
    """One run of `size` channels of one picture, `span` pixels of it.

    x `[pictures, channels, high, wide]`, y alike. Of run r, taps `spans[r]` to `spans[r + 1]` are kept; tap t reads
    rows `down * row + tops[t]`, columns `right * column + lefts[t]`, and has `weight[t, size]`.
    """
    run, picture = tl.program_id(1), tl.program_id(2)
    channel = run * size + tl.arange(0, size)
    pixel = tl.program_id(0) * span + tl.arange(0, span)
    row, column = pixel // out_wide, pixel % out_wide
    inside = (channel < channels)[:, None] & (pixel < out_high * out_wide)[None, :]
    own = (picture * channels + channel).to(tl.int64)[:, None]
    total = tl.zeros((size, span), tl.float32) + tl.load(bias + channel, mask=channel < channels, other=0.0)[:, None]
    for tap in range(tl.load(spans + run), tl.load(spans + run + 1)):
        above = row * down + tl.load(tops + tap)
        beside = column * right + tl.load(lefts + tap)
        there = inside & ((above >= 0) & (above < high) & (beside >= 0) & (beside < wide))[None, :]
        value = tl.load(x + own * (high * wide) + (above * wide + beside)[None, :], mask=there, other=0.0)
        total += value.to(tl.float32) * tl.load(weight + tap * size + tl.arange(0, size))[:, None]
    tl.store(y + own * (out_high * out_wide) + pixel[None, :], total.to(y.dtype.element_ty), mask=inside)

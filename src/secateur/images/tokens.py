"""tokens_of(module, x): what a layer of a network reads, as `[tokens, in]`, and what it computes from them."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import unfold

from secateur.adapt.layer import Layer

__all__ = ["spread_answers", "tokens_of", "understood"]


def tokens_of(module: Any, x: Tensor, most: int) -> Tensor:
    """What a layer reads, `[tokens, in]`: patches of a convolution, at evenly spread positions of every picture."""
    if isinstance(module, nn.Linear):
        return _spread(x.reshape(len(x), -1, x.shape[-1]), most)
    if module.kernel_size == (1, 1):
        rows = x[:, :, :: module.stride[0], :: module.stride[1]]
        return _spread(rows.flatten(2).transpose(1, 2), most)
    padding = module.padding if isinstance(module.padding, tuple) else (0, 0)
    if module.padding == "same":
        padding = tuple(
            dilation * (size - 1) // 2 for size, dilation in zip(module.kernel_size, module.dilation, strict=True)
        )
    settings = {"dilation": module.dilation, "padding": padding, "stride": module.stride}
    parts = [unfold(one, module.kernel_size, **settings).transpose(1, 2) for one in x.split(8)]
    return torch.cat([_spread(part, most * len(part) // len(x)) for part in parts])


def spread_answers(module: Any, out: Tensor, most: int) -> Tensor:
    """What a layer computes from `tokens_of`, `[tokens, out]`."""
    if isinstance(module, nn.Linear):
        return _spread(out.reshape(len(out), -1, out.shape[-1]), most)
    rows = out.flatten(2).transpose(1, 2)
    if module.kernel_size == (1, 1):
        return _spread(rows, most)
    return torch.cat([_spread(part, most * len(part) // len(out)) for part in rows.split(8)])


def understood(layer: Layer, tokens: Tensor, out: Tensor, most: int) -> bool:
    """Whether the tokens times the weight are what the layer computed: some pad by themselves."""
    expected = spread_answers(layer.module, out, most)
    bias = 0 if layer.bias is None else layer.bias
    if len(tokens) != len(expected):
        return False
    few = slice(None, None, max(1, len(tokens) // 500))
    far = (tokens[few] @ layer.weight.T + bias - expected[few]).abs().max()
    return bool(far <= 1e-3 * expected[few].abs().max() + 1e-6)


def _spread(rows: Tensor, most: int) -> Tensor:
    """Evenly spread places of `[count, places, width]`, about `most` in all, as `[tokens, width]`."""
    step = max(1, len(rows) * rows.shape[1] // max(most, 1))
    return rows[:, ::step].flatten(0, 1)

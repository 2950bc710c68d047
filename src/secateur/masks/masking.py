"""Weights under drawn soft masks, and the gradient of the masks' logits: one fused pass each.

The noise is a hash of a key and a logit's place, so that the backward pass draws it again, a resumed run draws the
same, and all ways to compute it agree: C++ on a CPU with a compiler, torch elsewhere, fused by its compiler on a GPU.
"""

import ctypes
import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from secateur.core.compiled import library
from secateur.core.shapes import Weight
from secateur.masks.candidates import Candidates

__all__ = ["SOURCE", "Draw", "key_of", "masked_gradient", "masked_weight", "probabilities"]

SOURCE = Path(__file__).with_suffix(".cpp")
_WORD, _GOLDEN = 0xFFFFFFFF, 0x9E3779B9
_KINDS = {torch.float32: 0, torch.bfloat16: 1}


class Draw(NamedTuple):
    """How masks are drawn: a key of 64 bits, kappa (sharpness), tau (temperature), lambda (pull), hard or soft.

    Hard takes the likeliest drawn candidate in the forward pass and the soft gradient in the backward one.
    """

    key: int
    sharpness: float
    temperature: float
    pull: float = 0.0
    hard: bool = False


def key_of(*names: str | int) -> int:
    """64 bits fixed by names, such as a seed, a layer and a step."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, names)).encode()).digest()[:8], "little")


def masked_weight(
    logits: Tensor, weight: Weight, candidates: Candidates, draw: Draw, dtype: torch.dtype = torch.float32
) -> Tensor:
    """A weight `[out, in]` under the mask drawn of logits `[candidates, out, in / m]`, in `dtype`.

    Formula: W * (y S), S the candidates [Fang et al. 2024, eq. 5]
    """
    if _native(logits, weight) and dtype in _KINDS:
        masked = torch.empty_like(weight, dtype=dtype)
        _call("mask_forward", candidates, draw, logits, weight, masked, int(draw.hard))
        return masked
    given = (_table(candidates, logits.device), *_numbers(draw, logits))
    return _way(_forward, logits)(logits, weight, *given, draw.hard).to(dtype)


def masked_gradient(logits: Tensor, weight: Weight, slope: Tensor, candidates: Candidates, draw: Draw) -> Tensor:
    """The logits' gradient, of that of the masked weight `[out, in]`; `pull` adds that of -lambda ||W * mask||^2.

    Formula: dL/dpi = kappa / tau y * (S b - y . S b), b = W (dL/dW' - 2 lambda W m) [chain rule through the softmax]
    """
    slope = slope.contiguous()
    if _native(logits, weight, slope):
        out = torch.empty_like(logits)
        _call("mask_backward", candidates, draw, logits, weight, slope, out, draw.pull)
        return out
    return _way(_backward, logits)(logits, weight, slope, _table(candidates, logits.device), *_numbers(draw, logits))


def probabilities(logits: Tensor, draw: Draw) -> Tensor:
    """Soft choices of logits `[candidates, ...]`; they add up to 1 over candidates.

    Formula: y = softmax((kappa pi + g) / tau), g = -ln(-ln u) [Fang et al. 2024, eq. 4; Jang et al. 2017]
    """
    return _chosen(logits, *_numbers(draw, logits))


def _numbers(draw: Draw, logits: Tensor) -> tuple[Tensor, Tensor]:
    """The draw as tensors: a compiler would make its numbers part of the code, and compile at every step."""
    words = torch.tensor([draw.key & _WORD, draw.key >> 32, _GOLDEN], device=logits.device)
    return words, torch.tensor([draw.sharpness, draw.temperature, draw.pull], device=logits.device)


def _chosen(logits: Tensor, words: Tensor, numbers: Tensor) -> Tensor:
    place = torch.arange(logits.numel(), device=logits.device, dtype=torch.int64)
    uniform = ((_hashed(place, words) >> 9).float() + 0.5) * 2.0**-23
    noise = -torch.log(-torch.log(uniform))
    return torch.softmax((numbers[0] * logits + noise.view_as(logits)) / numbers[1], dim=0)


def _hashed(place: Tensor, words: Tensor) -> Tensor:
    """32 random bits for every place; products wrap around as unsigned ones do in C++."""
    x = (place * words[2] + words[0]) & _WORD
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _WORD
    x = x ^ (x >> 15)
    x = (x + words[1]) & _WORD
    x = (x * 0x846CA68B) & _WORD
    x = x ^ (x >> 16)
    x = (x * 0x9E3779B1) & _WORD
    return x ^ (x >> 15)


def _mask(chosen: Tensor, table: Tensor) -> Tensor:
    """`[out, in]` of choices `[candidates, out, in / m]`."""
    parts = [sum(chosen[i] * table[i, j] for i in range(len(table))) for j in range(table.shape[1])]
    return torch.stack(parts, dim=-1).flatten(1)  # type: ignore[arg-type]


def _forward(logits: Tensor, weight: Tensor, table: Tensor, words: Tensor, numbers: Tensor, hard: bool) -> Tensor:
    chosen = _chosen(logits, words, numbers)
    if hard:
        chosen = (torch.arange(len(chosen), device=chosen.device)[:, None, None] == chosen.argmax(dim=0)).float()
    return weight.float() * _mask(chosen, table)


def _backward(logits: Tensor, weight: Tensor, slope: Tensor, table: Tensor, words: Tensor, numbers: Tensor) -> Tensor:
    chosen, wide = _chosen(logits, words, numbers), weight.float()
    back = wide * (slope.float() - 2 * numbers[2] * wide * _mask(chosen, table))
    blocks = back.unflatten(1, (-1, table.shape[1]))  # [out, in / m, m]
    gain = torch.stack([(blocks * row).sum(dim=-1) for row in table])  # [candidates, out, in / m]
    mean = (chosen * gain).sum(dim=0, keepdim=True)
    return numbers[0] / numbers[1] * chosen * (gain - mean)


@cache
def _fused(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    made: Callable[..., Tensor] = torch.compile(function, dynamic=False)
    return made


def _way(function: Callable[..., Tensor], logits: Tensor) -> Callable[..., Tensor]:
    return _fused(function) if logits.device.type == "cuda" else function


@cache
def _table(candidates: Candidates, device: torch.device) -> Tensor:
    return candidates.table.to(device)


def _native(logits: Tensor, *tensors: Tensor) -> bool:
    """Whether compiled C++ takes these tensors."""
    own = (logits, *tensors)
    usual = all(each.device.type == "cpu" and each.is_contiguous() and each.dtype in _KINDS for each in own)
    return usual and logits.dtype == torch.float32 and library(SOURCE) is not None


def _call(name: str, candidates: Candidates, draw: Draw, logits: Tensor, *rest: Any) -> None:
    """One pass in C++; a weight, masked or not, is followed by the kind of its numbers."""
    given: list[Any] = []
    for each in rest:
        if isinstance(each, Tensor):
            given += [_address(each)] if each.dim() == logits.dim() else [_address(each), _KINDS[each.dtype]]
        else:
            given.append(ctypes.c_float(each) if isinstance(each, float) else each)
    library_call: Any = getattr(library(SOURCE), name)
    library_call(
        ctypes.c_int64(logits[0].numel()),
        *(len(candidates), candidates.pattern.m, candidates.pattern.n),
        *(_address(_members(candidates)), ctypes.c_uint32(draw.key & _WORD), ctypes.c_uint32(draw.key >> 32)),
        *(ctypes.c_float(draw.sharpness), ctypes.c_float(draw.temperature), _address(logits)),
        *(*given, torch.get_num_threads()),
    )


def _address(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


@cache
def _members(candidates: Candidates) -> Tensor:
    """`[candidates, n]`: the places that each candidate keeps."""
    return candidates.table.nonzero()[:, 1].reshape(len(candidates), -1).to(torch.uint8).contiguous()

"""The shrunk model computes what the masked one does, or an error names the first block that differs."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor

from secateur.adapt.site import Site, Slice
from secateur.adapt.structure import Structure
from secateur.core.cut import Cut
from secateur.core.errors import DisagreementError, InputError
from secateur.core.shapes import Samples
from secateur.surgery.shrink import cut_slices

__all__ = ["Agreement", "difference", "mask_", "verify"]


class Agreement(NamedTuple):
    """Largest difference of logits, and after every block, each relative to the values' own size."""

    logits: float
    blocks: list[float]


def mask_(dense: Structure, small: Structure, sites: Sequence[Site], cut: Cut) -> None:
    """Give a dense model the shrunk one's weights and biases, with zeros where it was cut.

    What feeds a removed column stays as it was: its output meets only zeros.
    """
    slices = cut_slices(sites, cut)
    shrunk = {layer.name: layer for layer in small.layers}
    for layer in dense.layers:
        weight, part = layer.weight.clone(), slices.get(layer.name, Slice())
        rows, columns = part.kept(*weight.shape)
        gone = torch.ones(weight.shape[1], dtype=torch.bool)  # [in]
        gone[columns] = False
        weight[:, gone] = 0
        weight[rows[:, None], columns] = shrunk[layer.name].weight.to(weight.dtype)  # [kept rows, kept columns]
        layer.set_weight(weight)
        narrow = shrunk[layer.name].bias
        if narrow is not None:
            bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.clone()
            bias[rows] = narrow.to(weight.dtype)
            layer.set_bias(bias)


@torch.no_grad()
def verify(
    dense: Structure,
    small: Structure,
    sites: Sequence[Site],
    cut: Cut,
    samples: Samples,
    *,
    tolerance: float = 1e-3,
) -> Agreement:
    """Compare a shrunk model with its masked dense one on token ids or pixels; `dense` is overwritten.

    Raises DisagreementError naming the first block, or the logits, that differ by more than `tolerance`
    of the largest value, and InputError where the cut does not lead from one model's shapes to the other's.
    """
    _check_shapes(dense, small, sites, cut)
    mask_(dense, small, sites, cut)
    (wide, wide_logits), (narrow, narrow_logits) = _trace(dense, samples), _trace(small, samples)
    names = [block.name for block in dense.blocks]
    found: list[float] = []
    for name, expected, got in zip(names, wide, narrow, strict=True):
        found.append(difference(expected, got))
        if not found[-1] <= tolerance:  # written so that NaN is refused too
            raise DisagreementError(
                f"{name} differs from the masked dense model by {found[-1]:.2g} of its largest value, allowed is "
                f"{tolerance:g}: the folders do not belong together, or weights were trained after the cut"
            )
    logits = difference(wide_logits, narrow_logits)
    if not logits <= tolerance:
        raise DisagreementError(
            f"logits differ from the masked dense model's by {logits:.2g} of the largest, allowed is {tolerance:g}: "
            "what lies outside the blocks (embeddings, last norm, head) is not the dense model's"
        )
    return Agreement(logits, found)


def _check_shapes(dense: Structure, small: Structure, sites: Sequence[Site], cut: Cut) -> None:
    """Refuse a cut that does not turn the dense model's matrices into the small one's."""
    slices = cut_slices(sites, cut)
    shrunk = {layer.name: tuple(layer.weight.shape) for layer in small.layers}
    for layer in dense.layers:
        rows, columns = layer.weight.shape
        expected = slices.get(layer.name, Slice()).shape(rows, columns)
        found = shrunk.get(layer.name)
        if found != expected:
            raise InputError(
                f"{layer.name} should be {list(expected)} after the cut, and is {found and list(found)}: the "
                "pruned folder and its cut.json come from another dense model"
            )


def difference(expected: Tensor, got: Tensor) -> float:
    """Largest difference of two tensors, relative to the largest value expected."""
    return float((expected.float() - got.float()).abs().max() / expected.float().abs().max().clamp_min(1e-12))


def _trace(structure: Structure, samples: Samples) -> tuple[list[Tensor], Tensor]:
    seen: list[Tensor] = []

    def note(module: Any, args: Any, output: Any) -> None:
        seen.append(output if isinstance(output, Tensor) else output[0])  # [samples, length, hidden]

    with ExitStack() as stack:
        for block in structure.blocks:
            stack.callback(block.module.register_forward_hook(note).remove)
        logits = structure.model(samples, **({"use_cache": False} if samples.dim() == 2 else {}))[0]
    return seen, logits

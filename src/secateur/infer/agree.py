"""Whether a block without units computes what the dense block does where nothing reads them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.adapt.block import Block
from secateur.adapt.site import Site
from secateur.infer.blocks import block_arguments, probe_samples
from secateur.infer.light import light_weights

__all__ = ["agrees"]

_TOLERANCE = 1e-3  # of a block's largest output
_Cut = Callable[[str, Tensor], Tensor]


@torch.no_grad()
def agrees(
    model: PreTrainedModel,
    small: PreTrainedModel,
    blocks: Sequence[Block],
    sites: Sequence[tuple[str, Site]],
    cut: _Cut,
    kept: Mapping[str, Sequence[int]],
) -> str:
    """Why some block of the smaller model computes something else than the dense one; nothing where none does.

    cut: what stays of a tensor. kept: units by site. One block of each kind is tried, with light weights.
    """
    samples = probe_samples(model)
    tried: set[object] = set()
    own = {name: [site for block, site in sites if block == name] for name in {block for block, _ in sites}}
    twins = [replace(block, module=small.get_submodule(block.name), stages=()) for block in blocks]
    inside = {name for twin in twins for name in twin.tensors()}
    outside = [name for name, _ in small.named_parameters(remove_duplicate=False) if name not in inside]
    with light_weights(model), _filled(small, model, outside, cut):
        calls = block_arguments(model, samples, blocks)
        if blocks[0].whole:
            calls_of_small = calls
        else:
            calls_of_small = block_arguments(small, samples, twins)
        hidden = calls[0][0]
        for block, twin, call, its in zip(blocks, twins, calls, calls_of_small, strict=True):
            kind = _kind(block)
            if block.name not in own or kind in tried:
                continue
            tried.add(kind)
            with _filled(small, model, list(twin.tensors()), cut):
                found = twin.call(hidden, its[1], its[2])
            with _unread(own[block.name], block, kept):
                expected = block.call(hidden, call[1], call[2])
            apart = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
            if not apart <= _TOLERANCE:  # written so that NaN is refused too
                what = {"ffn": "channels"}.get(own[block.name][0].kind, "heads")
                return f"{block.name} without some {what} computes something else (off by {apart:.2g})"
    return ""


def _kind(block: Block) -> object:
    """What two blocks have in common that compute alike: their class, and the sizes of their tensors."""
    place = len(block.name)
    return type(block.module), tuple((name[place:], value.shape) for name, value in block.tensors().items())


@contextmanager
def _filled(small: PreTrainedModel, model: PreTrainedModel, names: Sequence[str], cut: _Cut) -> Iterator[None]:
    """Give parameters of the smaller model what stays of the dense one's, for a while."""
    old: list[tuple[Any, str, Any]] = []
    try:
        for name in names:
            owner, _, leaf = name.rpartition(".")
            module: Any = small.get_submodule(owner)
            old.append((module, leaf, module._parameters[leaf]))
            value = cut(name, model.get_parameter(name))
            module._parameters[leaf] = nn.Parameter(value, requires_grad=False)
        yield
    finally:
        for module, leaf, value in old:
            module._parameters[leaf] = value


@contextmanager
def _unread(sites: Sequence[Site], block: Block, kept: Mapping[str, Sequence[int]]) -> Iterator[None]:
    """Let nothing read the units that go: their columns are zero for a while."""
    old: dict[tuple[int, str], tuple[Any, str, Any]] = {}
    try:
        for site in sites:
            layer = block.layer(site.layer)
            module: Any = layer.module
            if (id(module), layer.parameter) not in old:
                held = module._parameters[layer.parameter]
                old[id(module), layer.parameter] = module, layer.parameter, held
                # A copy: light weights share memory.
                module._parameters[layer.parameter] = nn.Parameter(held.clone(), requires_grad=False)
            stays = set(kept[site.name])
            gone = [number for number in range(site.count) if number not in stays]
            layer.weight[:, site.columns[site.layer][gone].flatten()] = 0
        yield
    finally:
        for module, leaf, held in old.values():
            module._parameters[leaf] = held

"""Where a decoder block can be cut: KV groups or query heads, and ffn channels."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PretrainedConfig

from secateur.adapt.adapter import Adapter, Block
from secateur.adapt.site import Site
from secateur.core.errors import InputError, ModelError

__all__ = ["Sizes", "all_sites", "block_sites", "block_sizes", "head_dim"]


class Sizes(NamedTuple):
    """What a block holds: query heads, key-value heads, ffn channels."""

    heads: int
    kv_heads: int
    ffn: int


def head_dim(config: PretrainedConfig) -> int:
    """Width of one head, from the config's own field or from the dense model's sizes."""
    own = getattr(config, "head_dim", None)
    return int(own) if own else config.hidden_size // config.num_attention_heads


def block_sizes(block: Block, width: int) -> Sizes:
    """A block's sizes, read off its matrices; `width` is that of one head."""
    mixing, projecting, _, narrowing = block.stages()
    heads = projecting[0].weight.shape[1] // width
    if len(mixing) == 3:
        kv_heads = mixing[1].weight.shape[0] // width
    else:
        kv_heads = (mixing[0].weight.shape[0] // width - heads) // 2
    return Sizes(heads, kv_heads, narrowing[0].weight.shape[1])


def block_sites(block: Block, width: int, *, unit: str = "auto") -> list[Site]:
    """The block's sites in forward order: attention first, then ffn.

    unit: kv_groups (query heads with their K and V head), heads (equally many query
    heads of every group, K and V stay), none, or auto: kv_groups where there is more
    than one. Raises InputError when the model cannot lose such units.
    """
    sizes = block_sizes(block, width)
    kind = ("kv_groups" if sizes.kv_heads > 1 else "heads") if unit == "auto" else unit
    if kind not in ("kv_groups", "heads", "none"):
        raise InputError(f"unit {unit!r} is unknown: use auto, kv_groups, heads or none")
    if block.family.no_heads and kind != "none" and unit != "auto":
        raise InputError(f"{block.name} cannot lose heads: {block.family.no_heads}; use unit none")
    attention = [] if kind == "none" or block.family.no_heads else [_attention(block, sizes, width, kind)]
    return [*attention, _ffn(block, sizes)]


def all_sites(adapter: Adapter, names: Iterable[str]) -> list[Site]:
    """Every block's sites, with heads or KV groups as the names of a cut say."""
    kinds = {name.rpartition(".")[2] for name in names}
    unit = next((kind for kind in ("kv_groups", "heads") if kind in kinds), "none")
    width = head_dim(adapter.model.config)
    return [site for block in adapter.blocks() for site in block_sites(block, width, unit=unit)]


def _span(count: int, size: int, start: int = 0) -> Tensor:
    return start + torch.arange(count * size).reshape(count, size)


def _attention(block: Block, sizes: Sizes, width: int, kind: str) -> Site:
    mixing, projecting, _, _ = block.stages()
    heads, kv_heads, _ = sizes
    if heads % kv_heads:
        raise ModelError(f"{block.name} shares {kv_heads} KV heads among {heads} query heads unevenly")
    if kind == "kv_groups" and kv_heads == 1 and heads > 1:
        raise InputError(f"{block.name} has one KV head, and without it no attention is left: use unit heads")
    shared = heads // kv_heads
    count = kv_heads if kind == "kv_groups" else heads
    query = _span(count, heads // count * width)
    key_value = [_span(kv_heads, width), _span(kv_heads, width)] if kind == "kv_groups" or shared == 1 else []
    if len(mixing) == 3:
        rows = {layer.name: index for layer, index in zip(mixing, [query, *key_value], strict=False)}
    elif block.family.fused == "heads":
        rows = {mixing[0].name: _span(count, 3 * width)}
    else:
        starts = (heads * width, (heads + kv_heads) * width)
        parts = [index + start for index, start in zip(key_value, starts, strict=False)]
        rows = {mixing[0].name: torch.cat([query, *parts], dim=1)}
    groups = kv_heads if kind == "heads" and shared > 1 else 1
    columns = {projecting[0].name: query}
    name = f"{block.name}.{'kv_groups' if kind == 'kv_groups' else 'heads'}"
    return Site(name, kind, count, _weights(block, rows, columns), rows, columns, groups)


def _ffn(block: Block, sizes: Sizes) -> Site:
    _, _, widening, narrowing = block.stages()
    channels = _span(sizes.ffn, 1)
    rows = {
        layer.name: torch.cat([channels + start for start in range(0, layer.weight.shape[0], sizes.ffn)], dim=1)
        for layer in widening
    }
    columns = {narrowing[0].name: channels}
    return Site(f"{block.name}.ffn", "ffn", sizes.ffn, _weights(block, rows, columns), rows, columns)


def _weights(block: Block, rows: dict[str, Tensor], columns: dict[str, Tensor]) -> int:
    """Parameters one unit takes, biases of its rows included."""
    layers = {layer.name: layer for stage in block.stages() for layer in stage}
    total = 0
    for name, index in rows.items():
        biased = layers[name].bias is not None
        total += index.shape[1] * (layers[name].weight.shape[1] + biased)
    return total + sum(index.shape[1] * layers[name].weight.shape[0] for name, index in columns.items())

"""Where a decoder block can be cut: KV groups or query heads, and ffn channels."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from transformers import PretrainedConfig

from secateur.adapt.adapter import Adapter, Block
from secateur.adapt.attention import Attention, site_weights, span
from secateur.adapt.site import Site

__all__ = ["Sizes", "all_sites", "block_attention", "block_sites", "block_sizes", "head_dim"]


class Sizes(NamedTuple):
    """What a block holds: query heads, key-value heads, ffn channels."""

    heads: int
    kv_heads: int
    ffn: int


def head_dim(config: PretrainedConfig) -> int:
    """Width of one head, from the config's own field or from the dense model's sizes."""
    own = getattr(config, "head_dim", None)
    return int(own) if own else config.hidden_size // config.num_attention_heads


def block_attention(block: Block, width: int) -> Attention:
    """A decoder block's attention; `width` is that of one head."""
    family = block.family
    attention_in, attention_out, _, _ = block.stages()
    return Attention(
        name=block.name,
        kind="decoder",
        layer=int(block.name.rpartition(".")[2]),
        width=width,
        inputs=tuple(attention_in),
        output=attention_out[0],
        module=block.module.get_submodule(family.attention),
        fused=family.fused,
        no_heads=family.no_heads,
    )


def block_sizes(block: Block, width: int) -> Sizes:
    """A block's sizes, read off its matrices; `width` is that of one head."""
    attention = block_attention(block, width)
    return Sizes(attention.heads, attention.kv_heads, block.stages()[3][0].weight.shape[1])


def block_sites(block: Block, width: int, *, unit: str = "auto") -> list[Site]:
    """The block's sites in forward order: attention first, if it has heads, then ffn.

    unit: kv_groups (query heads with their K and V head), heads (equally many query
    heads of every group, K and V stay), none, or auto: kv_groups where there is more
    than one. Raises InputError when the model cannot lose such units.
    """
    attention = block_attention(block, width)
    chosen = attention.unit(unit)
    sites = [] if chosen == "none" or attention.heads == 0 else [attention.site(chosen)]
    return [*sites, _ffn(block)]


def all_sites(adapter: Adapter, names: Iterable[str]) -> list[Site]:
    """Every block's sites, with heads or KV groups as the names of a cut say."""
    kinds = {name.rpartition(".")[2] for name in names}
    unit = next((kind for kind in ("kv_groups", "heads") if kind in kinds), "none")
    width = head_dim(adapter.model.config)
    return [site for block in adapter.blocks() for site in block_sites(block, width, unit=unit)]


def _ffn(block: Block) -> Site:
    _, _, ffn_in, (ffn_out,) = block.stages()
    count = ffn_out.weight.shape[1]
    channels = span(count, 1)
    rows = {
        layer.name: torch.cat([channels + start for start in range(0, layer.weight.shape[0], count)], dim=1)
        for layer in ffn_in
    }
    columns = {ffn_out.name: channels}
    layers = {layer.name: layer for layer in (*ffn_in, ffn_out)}
    return Site(f"{block.name}.ffn", "ffn", count, site_weights(layers, rows, columns), rows, columns)

"""Take heads out of any model's attentions, and give emptied ones a silent head."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from secateur.adapt.attention import Attention
from secateur.adapt.site import Site
from secateur.adapt.structure import Structure
from secateur.core.cut import Cut
from secateur.surgery.shrink import cut_slices, slice_layers_

__all__ = ["add_silent_heads_", "cut_heads_", "head_sites"]


def head_sites(attentions: Sequence[Attention], unit: str = "auto") -> list[Site]:
    """One site for every attention that has heads and can lose them."""
    units = [(attention, attention.unit(unit)) for attention in attentions]
    return [attention.site(chosen) for attention, chosen in units if chosen != "none" and attention.heads]


def cut_heads_(structure: Structure, sites: Sequence[Site], cut: Cut) -> None:
    """Slice heads away in memory; the config keeps the old counts until it is saved.

    Raises InputError on a site the model does not have.
    """
    cut = _silenced_(structure, sites, cut)
    slices = cut_slices(sites, cut)
    structure.settle_()  # tables of positions that blocks share become each one's own before they are cut
    for attention in structure.attentions:
        slice_layers_((*attention.inputs, attention.output, *attention.tables), slices)
        _cut_table_(attention, cut)
    structure.settle_()


def _silenced_(structure: Structure, sites: Sequence[Site], cut: Cut) -> Cut:
    """The cut with a head kept where a class needs one, whose output nobody reads."""
    attentions = {attention.output.name: attention for attention in structure.attentions}
    kept = dict(cut.kept)
    for site in sites:
        attention = attentions[site.layer]
        if attention.needs_a_head and kept.get(site.name) == ():
            weight = attention.output.weight.clone()
            weight[:, site.columns[site.layer][0]] = 0  # the output projection of head 0 reads nothing
            attention.output.set_weight(weight)
            kept[site.name] = (0,)
    return Cut(kept)


def _cut_table_(attention: Attention, cut: Cut) -> None:
    """Columns of a relative bias table go with their heads, and the numbers of heads that pick theirs elsewhere."""
    module: Any = attention.module
    kept = next((cut.kept[name] for name in cut.kept if name.rpartition(".")[0] == attention.name), None)
    if kept is not None and hasattr(module, "kept_heads"):
        module.kept_heads = module.kept_heads[list(kept)]
    if kept is not None and getattr(module, "has_relative_attention_bias", False):
        weight = module.relative_attention_bias.weight.detach()[:, list(kept)]
        module.relative_attention_bias = nn.Embedding.from_pretrained(weight.contiguous())


def add_silent_heads_(structure: Structure) -> None:
    """Give every emptied attention one head of zeros, which says nothing: for formats that know no width of 0."""
    for attention in structure.attentions:
        if attention.heads:
            continue
        for layer in attention.inputs:
            rows = attention.parts * attention.width
            bias = None if layer.bias is None else layer.bias.new_zeros(rows)
            layer.replace_(layer.weight.new_zeros(rows, layer.weight.shape[1]), bias)
        own: Any = attention.module
        if attention.picks_bias:
            own.kept_heads = own.kept_heads.new_zeros(1)
        for table in attention.tables:
            table.replace_(table.weight.new_zeros(1, table.weight.shape[1]), None)
        out = attention.output
        out.replace_(out.weight.new_zeros(len(out.weight), attention.width), out.bias)
        if getattr(own, "has_relative_attention_bias", False):
            own.relative_attention_bias = nn.Embedding(own.relative_attention_num_buckets, 1)
    structure.settle_()

"""Take heads out of any model's attentions, and say so in its config."""

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from secateur.adapt.adapter import Adapter, Layer
from secateur.adapt.attention import Attention
from secateur.adapt.decoder_table import DECODERS
from secateur.adapt.encoder_table import ENCODERS, attentions, gives_own_bias_
from secateur.adapt.resize import settle_
from secateur.adapt.site import Site
from secateur.adapt.sites import block_sizes, head_dim
from secateur.core.cut import Cut
from secateur.surgery.config import shrunk_config
from secateur.surgery.shrink import cut_slices, shrink_, slice_layers_

__all__ = ["add_silent_heads_", "cut_heads_", "head_sites", "heads_config"]


def head_sites(all_attentions: Sequence[Attention], unit: str = "auto") -> list[Site]:
    """One site for every attention that has heads and can lose them."""
    chosen = [(attention, attention.unit(unit)) for attention in all_attentions]
    return [attention.site(name) for attention, name in chosen if name != "none" and attention.heads]


def cut_heads_(model: PreTrainedModel, sites: Sequence[Site], cut: Cut) -> None:
    """Slice heads away in memory; the config keeps the old counts until `heads_config`.

    Raises InputError on a site the model does not have.
    """
    if model.config.model_type in DECODERS:
        family = DECODERS[model.config.model_type]
        shrink_(model, sites, _silenced_(model, sites, cut) if family.needs_a_head else cut)
        return
    slices = cut_slices(sites, cut)
    gives_own_bias_(model)
    for attention in attentions(model):
        slice_layers_((*attention.inputs, attention.output), slices)
        _cut_table_(attention, cut)
    gives_own_bias_(model)


def _silenced_(model: PreTrainedModel, sites: Sequence[Site], cut: Cut) -> Cut:
    """The cut with a head kept where none was, whose output nobody reads."""
    for site in sites:
        if cut.kept.get(site.name) == ():
            layer = Layer(site.layer, model.get_submodule(site.layer))
            weight = layer.weight.clone()
            weight[:, site.columns[site.layer][0]] = 0
            layer.set_weight(weight)
    return Cut({name: kept or (0,) for name, kept in cut.kept.items()})


def _cut_table_(attention: Attention, cut: Cut) -> None:
    """Columns of a relative bias table go with their heads."""
    module: Any = attention.module
    kept = next((cut.kept[name] for name in cut.kept if name.rpartition(".")[0] == attention.name), None)
    if kept is not None and getattr(module, "has_relative_attention_bias", False):
        weight = module.relative_attention_bias.weight.detach()[:, list(kept)]
        module.relative_attention_bias = nn.Embedding.from_pretrained(weight.contiguous())


def heads_config(document: dict[str, Any], model: PreTrainedModel) -> dict[str, Any]:
    """config.json of a model whose attentions have other heads than its class gives them.

    A single stack lists them in the standard `per_layer_config`, a model of two stacks in
    `heads_per_layer`, by kind; the global fields keep the dense counts.
    """
    all_attentions = attentions(model)
    if model.config.model_type in DECODERS:
        width = head_dim(model.config)
        sizes = [block_sizes(block, width) for block in Adapter(model).blocks()]
        return shrunk_config(document, model.config, DECODERS[model.config.model_type], sizes)
    stacks = ENCODERS[model.config.model_type]
    if len(stacks) == 1:
        layers = {str(attention.layer): {stacks[0].heads_field: attention.heads} for attention in all_attentions}
        return document | {"per_layer_config": layers}
    counts = {
        stack.kind: [attention.heads for attention in all_attentions if attention.kind == stack.kind]
        for stack in stacks
    }
    return document | {"heads_per_layer": counts}


def add_silent_heads_(model: PreTrainedModel) -> None:
    """Give every emptied attention one head of zeros, which says nothing: for formats that know no width of 0."""
    empty = {attention.name for attention in attentions(model) if attention.heads == 0}
    for attention in attentions(model):
        if attention.name in empty:
            parts = 1 if len(attention.inputs) == 3 else 3
            for layer in attention.inputs:
                rows = parts * attention.width
                bias = None if layer.bias is None else layer.bias.new_zeros(rows)
                layer.replace_(layer.weight.new_zeros(rows, layer.weight.shape[1]), bias)
            out = attention.output
            out.replace_(out.weight.new_zeros(len(out.weight), attention.width), out.bias)
            if getattr(attention.module, "has_relative_attention_bias", False):
                table: Any = attention.module
                table.relative_attention_bias = nn.Embedding(table.relative_attention_num_buckets, 1)
    if model.config.model_type in DECODERS:
        width = head_dim(model.config)
        for block in Adapter(model).blocks():
            settle_(block, block_sizes(block, width), width)
    gives_own_bias_(model)

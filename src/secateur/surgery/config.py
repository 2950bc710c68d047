"""The config of a shrunk model: stock fields where they suffice, else one entry per layer."""

import copy
from collections.abc import Sequence
from typing import Any

from transformers import PretrainedConfig

from secateur.adapt.families import Family
from secateur.adapt.sites import Sizes, head_dim

__all__ = ["depth_config", "shrunk_config"]


def shrunk_config(
    document: dict[str, Any], config: PretrainedConfig, family: Family, sizes: Sequence[Sizes]
) -> dict[str, Any]:
    """config.json of a model whose blocks have these sizes.

    Equal sizes that the stock class can express change its own fields, so that plain
    transformers loads the model. Else the standard `per_layer_config` lists what
    differs, or, where the config class refuses such numbers, our `layer_sizes`.
    """
    width = head_dim(config)
    plain = {key: value for key, value in document.items() if key not in ("per_layer_config", "layer_sizes")}
    if len(set(sizes)) == 1:
        uniform = plain | _fields(plain, family, sizes[0]) | {"head_dim": width}
        same_heads = sizes[0].heads * width == config.hidden_size
        same_ffn = sizes[0].ffn == _dense_ffn(plain, config)
        if (family.free_heads or same_heads) and (family.ffn_field or same_ffn) and _accepted(config, uniform):
            return uniform
    plain |= {"head_dim": width}
    plain = {"num_key_value_heads": sizes[0].kv_heads, **plain} if family.free_heads else plain
    layers = {str(number): _fields(plain, family, one, complete=True) for number, one in enumerate(sizes)}
    standard = plain | {"per_layer_config": layers}
    return standard if _accepted(config, standard) else plain | {"layer_sizes": [list(one) for one in sizes]}


def depth_config(document: dict[str, Any], kept: Sequence[int], blocks: int) -> dict[str, Any]:
    """config.json after whole blocks are gone: counts and lists with one entry a block keep in step."""
    left = copy.deepcopy(document)
    for key, value in document.items():
        if isinstance(value, list) and len(value) == blocks:
            left[key] = [value[number] for number in kept]
    if "per_layer_config" in left:
        entries = document["per_layer_config"]
        left["per_layer_config"] = {str(new): entries[str(old)] for new, old in enumerate(kept) if str(old) in entries}
    for key in ("num_hidden_layers", "n_layer"):
        if key in left:
            left[key] = len(kept)
    return left


def _fields(plain: dict[str, Any], family: Family, sizes: Sizes, *, complete: bool = False) -> dict[str, int]:
    fields = {family.heads_field: sizes.heads}
    if family.free_heads:
        fields["num_key_value_heads"] = sizes.kv_heads
    if family.ffn_field or complete:
        fields[family.ffn_field or "intermediate_size"] = sizes.ffn
    return fields


def _dense_ffn(plain: dict[str, Any], config: PretrainedConfig) -> int:
    return plain.get("intermediate_size") or 4 * config.hidden_size


def _accepted(config: PretrainedConfig, document: dict[str, Any]) -> bool:
    """Whether the config class takes this document, layer by layer."""
    try:
        made = type(config).from_dict(copy.deepcopy(document))
        made.validate()
        return [layer for layer in made.per_layer_config] != []
    except Exception:  # strict configs raise many kinds; any means no
        return False

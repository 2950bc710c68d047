"""The config of a shrunk model: stock fields where they suffice, else one entry per layer."""

import copy
from collections.abc import Sequence
from typing import Any

from transformers import PretrainedConfig

from secateur.adapt.decoder_table import Decoder
from secateur.adapt.sites import Sizes, head_dim
from secateur.core.errors import ModelError

__all__ = ["depth_config", "shrunk_config"]

_BY_BLOCK = ("layer_types", "mlp_layer_types")  # config fields with one entry a block


def shrunk_config(
    document: dict[str, Any], config: PretrainedConfig, family: Decoder, sizes: Sequence[Sizes]
) -> dict[str, Any]:
    """config.json of a model whose blocks have these sizes.

    Equal sizes that the stock class can express change its own fields, so that plain
    transformers loads the model. Else the standard `per_layer_config` lists them; the
    global fields keep the dense sizes, which some classes check and so must be let
    read. Raises ModelError when the config class takes none of this.
    """
    width = head_dim(config)
    plain = {key: value for key, value in document.items() if key != "per_layer_config"} | {"head_dim": width}
    same_heads = sizes[0].heads * width == config.hidden_size
    candidates = []
    if len(set(sizes)) == 1 and (family.free_heads or same_heads) and family.ffn_field:
        candidates.append(plain | _fields(family, sizes[0]))
    if family.free_heads:
        plain = {"num_key_value_heads": sizes[0].kv_heads, **plain}
    layers = {str(number): _fields(family, block) for number, block in enumerate(sizes)}
    listed = plain | {"per_layer_config": layers}
    candidates += [listed, listed | {"allow_global_per_layer_attribute_access": True}]
    for candidate in candidates:
        if _accepted(config, candidate):
            return candidate
    raise ModelError(f"{type(config).__name__} takes no sizes by layer: prune it by zeros, or update transformers")


def depth_config(document: dict[str, Any], config: PretrainedConfig, kept: Sequence[int]) -> dict[str, Any]:
    """config.json after whole blocks are gone: counts, and what each block is, keep in step.

    What the config class derives from a block's position (`layer_types`) is written out, as positions change.
    """
    left = copy.deepcopy(document)
    for key in _BY_BLOCK:
        values = getattr(config, key, None)
        if isinstance(values, list) and len(values) == config.num_hidden_layers:
            left[key] = [values[number] for number in kept]
    if "per_layer_config" in left:
        entries = document["per_layer_config"]
        left["per_layer_config"] = {str(new): entries[str(old)] for new, old in enumerate(kept) if str(old) in entries}
    for key in ("num_hidden_layers", "n_layer", "num_layers"):
        if key in left:
            left[key] = len(kept)
    return left


def _fields(family: Decoder, sizes: Sizes) -> dict[str, int]:
    fields = {family.heads_field: sizes.heads, family.ffn_field or "intermediate_size": sizes.ffn}
    return fields | ({"num_key_value_heads": sizes.kv_heads} if family.free_heads else {})


def _accepted(config: PretrainedConfig, document: dict[str, Any]) -> bool:
    """Whether the config class takes this document."""
    try:
        return type(config).from_dict(copy.deepcopy(document)) is not None
    except Exception:  # strict configs raise many kinds; any means no
        return False

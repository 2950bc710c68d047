"""The config of a model that has lost whole blocks."""

import copy
from collections.abc import Sequence
from typing import Any

from transformers import PretrainedConfig

__all__ = ["depth_config"]

_BY_BLOCK = ("layer_types", "mlp_layer_types")  # config fields with one entry a block


def depth_config(document: dict[str, Any], config: PretrainedConfig, kept: Sequence[int]) -> dict[str, Any]:
    """config.json after whole blocks are gone: counts, and what each block is, keep in step.

    What the config class derives from a block's position (`layer_types`) is written out, as positions change.
    """
    left = copy.deepcopy(document)  # the caller's document stays as it is
    for key in _BY_BLOCK:
        values = getattr(config, key, None)
        if isinstance(values, list) and len(values) == config.num_hidden_layers:
            left[key] = [values[number] for number in kept]
    if "per_layer_config" in left:
        entries = document["per_layer_config"]
        left["per_layer_config"] = {str(new): entries[str(old)] for new, old in enumerate(kept) if str(old) in entries}
    own = config.attribute_map.get("num_hidden_layers", "num_hidden_layers")  # a document may leave it to the class
    for key in ("num_hidden_layers", "n_layer", "num_layers"):
        if key in left or key == own:
            left[key] = len(kept)
    return left

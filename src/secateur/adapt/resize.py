"""Blocks of other sizes than their class gives them: read, apply, and load them."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

from secateur.adapt.adapter import Adapter, Block
from secateur.adapt.decoder_table import DECODERS, Decoder
from secateur.adapt.encoder_table import ENCODERS, head_counts, resize_heads_
from secateur.adapt.sites import Sizes, block_sites, block_sizes, head_dim
from secateur.core.errors import ModelError

__all__ = ["layer_sizes", "register", "resize_", "settle_", "settled_numbers", "shrinkable"]


def layer_sizes(config: PretrainedConfig, family: Decoder) -> list[Sizes] | None:
    """Every block's sizes where a config's `per_layer_config` lists them; else None."""
    if not getattr(config, "is_heterogeneous", False):
        return None
    return [_sizes(layer, family) for layer in config.per_layer_config]


def _wanted(config: PretrainedConfig) -> Callable[[Any], None] | None:
    """What makes a freshly built model as the config lists it; None where it lists nothing of its own."""
    if config.model_type in ENCODERS:
        counts = head_counts(config)
        return None if counts is None else lambda model: resize_heads_(model, counts)
    if config.model_type not in DECODERS:
        return None
    sizes = layer_sizes(config, DECODERS[config.model_type])  # quantised ones are not ours to refuse here
    return None if sizes is None else lambda model: resize_(model, sizes)


def _sizes(config: PretrainedConfig, family: Decoder) -> Sizes:
    heads = int(getattr(config, family.heads_field))
    ffn = getattr(config, family.ffn_field or "intermediate_size", None)
    return Sizes(heads, getattr(config, "num_key_value_heads", None) or heads, ffn or 4 * config.hidden_size)


def resize_(model: PreTrainedModel, sizes: Sequence[Sizes]) -> None:
    """Give every block matrices of these sizes, without values.

    Raises ModelError when there are not as many sizes as blocks.
    """
    adapter = Adapter(model)
    blocks = adapter.blocks()
    if len(sizes) != len(blocks):
        raise ModelError(f"the config lists sizes for {len(sizes)} blocks, but the model has {len(blocks)}")
    width = head_dim(model.config)
    for block, wanted in zip(blocks, sizes, strict=True):
        _resize_block_(block, wanted, width)


def _resize_block_(block: Block, wanted: Sizes, width: int) -> None:
    now = block_sizes(block, width)
    sites = block_sites(block, width, unit="none")
    if wanted.kv_heads != now.kv_heads:
        sites += block_sites(block, width, unit="kv_groups")[:-1]
    elif wanted.heads != now.heads:
        sites += block_sites(block, width, unit="heads")[:-1]
    for site in sites:
        kept = wanted.ffn if site.kind == "ffn" else site.count * wanted.heads // now.heads
        gone = site.count - kept
        for name, index in site.rows.items():
            layer = block.named(name)
            rows, columns = layer.weight.shape
            layer.reshape_(rows - gone * index.shape[1], columns)
        layer = block.named(site.layer)
        rows, columns = layer.weight.shape
        layer.reshape_(rows, columns - gone * site.pattern.unit)
    settle_(block, wanted, width)


def settle_(block: Block, sizes: Sizes, width: int) -> None:
    """Tell the attention module its new sizes."""
    attention: Any = block.module.get_submodule(block.family.attention)
    numbers = settled_numbers(block, sizes, width)
    own = numbers.pop("config", None)
    for name, value in numbers.items():
        setattr(attention, name, value)
    if own is not None:
        attention.config = copy.copy(attention.config)
        attention.config.__dict__.pop("_heterogeneity_spec", None)
        for name, value in own.items():
            setattr(attention.config, name, value)


def settled_numbers(block: Block, sizes: Sizes, width: int) -> dict[str, Any]:
    """What the attention module keeps of its sizes, by attribute; `config` holds those of a config of its own."""
    attention: Any = block.module.get_submodule(block.family.attention)
    numbers = {
        "num_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "num_key_value_groups": sizes.heads // max(sizes.kv_heads, 1),
        "split_size": sizes.heads * width,
    }
    known: dict[str, Any] = {name: value for name, value in numbers.items() if hasattr(attention, name)}
    if len(block.family.attention_in) == 1 and hasattr(attention, "config"):
        known["config"] = {"num_attention_heads": sizes.heads}  # Phi-3 splits its fused rows by the config's counts
    return known


def shrinkable(stock: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The same class, whose blocks may have sizes of their own; without such sizes it is unchanged."""

    def __init__(self: Any, config: PretrainedConfig, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        resize = _wanted(config)
        if resize is None:
            stock.__init__(self, config, *args, **kwargs)
            return
        plain = copy.copy(config)
        plain.__dict__.pop("_heterogeneity_spec", None)
        stock.__init__(self, plain, *args, **kwargs)
        resize(self)
        config._attn_implementation = plain._attn_implementation
        self.config = config

    names = {"__module__": stock.__module__, "__qualname__": stock.__qualname__, "__doc__": stock.__doc__}
    return type(stock.__name__, (stock,), {"__init__": __init__, "_secateur": True, **names})


def register() -> None:
    """Let transformers' Auto classes load models whose blocks differ in size, for every family of the tables."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto import modeling_auto

    every = [auto for name, auto in vars(modeling_auto).items() if name.startswith("AutoModel")]
    for name in (*DECODERS, *ENCODERS):
        config_class = CONFIG_MAPPING[name]
        for auto in every:
            stock: Any = auto._model_mapping.get(config_class, None)
            classes = stock if isinstance(stock, tuple) else (stock,)
            fitting = all(getattr(kind, "config_class", None) is config_class for kind in classes)
            if fitting and not any(getattr(kind, "_secateur", False) for kind in classes):
                ours: Any = tuple(shrinkable(kind) for kind in classes)
                auto.register(config_class, ours if isinstance(stock, tuple) else ours[0], exist_ok=True)

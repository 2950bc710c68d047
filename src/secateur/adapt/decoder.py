"""Decoders by their table: blocks with stages and attentions, and sizes of their own in every block."""

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from secateur.adapt.attention import Attention
from secateur.adapt.block import Answer, Block, Sizes, Stage
from secateur.adapt.decoder_table import DECODERS, Decoder
from secateur.adapt.layer import Layer
from secateur.core.errors import ModelError

__all__ = [
    "decoder_blocks",
    "head_dim",
    "listed_sizes",
    "lists_sizes",
    "resize_",
    "settle_",
    "settled_numbers",
    "shrunk_config",
]


def head_dim(config: PretrainedConfig) -> int:
    """Width of one head, from the config's own field or from the dense model's sizes."""
    own = getattr(config, "head_dim", None)
    return int(own) if own else config.hidden_size // config.num_attention_heads


def decoder_blocks(model: PreTrainedModel) -> tuple[Block, ...]:
    """All blocks, in forward order.

    Raises AttributeError where a named part is missing, and ModelError on a matrix of a block that has no name:
    pruning would pass over it without a word.
    """
    row = DECODERS[model.config.model_type]
    place, width = row.blocks, head_dim(model.config)
    if not hasattr(model, model.base_model_prefix):  # the body alone
        place = place.removeprefix(f"{model.base_model_prefix}.")  # AutoModel's body has no head to hold it
    blocks = tuple(
        _block(f"{place}.{number}", number, module, row, width)
        for number, module in enumerate(model.get_submodule(place).children())
    )
    for block in blocks:
        _check_complete(block)
    return blocks


def _block(name: str, number: int, module: nn.Module, row: Decoder, width: int) -> Block:
    def layers(*names: str) -> tuple[Layer, ...]:
        return tuple(Layer(f"{name}.{part}", module.get_submodule(part)) for part in names)

    def modules(*names: str) -> tuple[nn.Module, ...]:
        return tuple(module.get_submodule(part) for part in names)

    norms: tuple[tuple[str, ...], tuple[str, ...]] = (
        ((), ()) if row.norms is None else ((row.norms[0],), (row.norms[1],))
    )
    mixed = Answer(module.get_submodule(row.attention), modules(*norms[0]), row.adds_residual, pair=True)
    before_ffn = norms[1] if row.ffn else (*row.ffn_in, *norms[1])
    fed = Answer(module.get_submodule(row.ffn or row.ffn_out), modules(*before_ffn), row.adds_residual)
    stages = (
        Stage("attention_in", layers(*row.attention_in)),
        Stage("attention_out", layers(row.attention_out), mixed),
        Stage("ffn_in", layers(*row.ffn_in)),
        Stage("ffn_out", layers(row.ffn_out), fed),
    )
    attention = Attention(
        name=name,
        kind="decoder",
        layer=number,
        width=width,
        inputs=stages[0].layers,
        output=stages[1].layers[0],
        module=mixed.module,
        fused=row.fused,
        no_heads=row.no_heads,
        needs_a_head=row.needs_a_head,
    )
    return Block(name, number, module, stages, (attention,), row.adds_residual)


def _check_complete(block: Block) -> None:
    named = {f"{layer.name}.weight" for layer in block.layers}
    for name, tensor in block.tensors().items():
        if tensor.dim() > 1 and name not in named:  # norms and biases are vectors
            raise ModelError(
                f"{name} {list(tensor.shape)} belongs to no stage of the family's row in adapt/decoder_table.py: this "
                "variant (cross-attention, experts, ...) cannot be pruned yet"
            )


def lists_sizes(config: PretrainedConfig) -> bool:
    """Whether a config lists sizes of its own for every block."""
    return bool(getattr(config, "is_heterogeneous", False))


def listed_sizes(config: PretrainedConfig) -> list[Sizes]:
    """Every block's sizes as a config's `per_layer_config` lists them."""
    row = DECODERS[config.model_type]
    return [_sizes(layer, row) for layer in config.per_layer_config]


def _sizes(config: Any, row: Decoder) -> Sizes:
    heads = int(getattr(config, row.heads_field))
    ffn = getattr(config, row.ffn_field or "intermediate_size", None)
    return Sizes(heads, getattr(config, "num_key_value_heads", None) or heads, ffn or 4 * config.hidden_size)


def resize_(blocks: Sequence[Block], config: PretrainedConfig) -> None:
    """Give every block matrices of the sizes that the config lists, without values.

    Raises ModelError when there are not as many sizes as blocks.
    """
    sizes = listed_sizes(config)
    if len(sizes) != len(blocks):
        raise ModelError(f"the config lists sizes for {len(sizes)} blocks, but the model has {len(blocks)}")
    for block, wanted in zip(blocks, sizes, strict=True):
        _resize_block_(block, wanted)
    settle_(blocks)


def _resize_block_(block: Block, wanted: Sizes) -> None:
    now = block.sizes
    unit = "kv_groups" if wanted.kv_heads != now.kv_heads else "heads" if wanted.heads != now.heads else "none"
    for site in block.sites(unit):
        # Units to take off, values do not matter.
        gone = site.count - (wanted.ffn if site.kind == "ffn" else site.count * wanted.heads // now.heads)
        for name, index in site.rows.items():
            rows, columns = block.layer(name).weight.shape
            block.layer(name).reshape_(rows - gone * index.shape[1], columns)
        reader = block.layer(site.layer)
        rows, columns = reader.weight.shape
        reader.reshape_(rows, columns - gone * site.pattern.unit)


def settle_(blocks: Sequence[Block]) -> None:
    """Tell every attention module the sizes its matrices have now."""
    for block in blocks:
        attention: Any = block.attentions[0].module
        numbers = settled_numbers(block)
        own = numbers.pop("config", None)
        for name, value in numbers.items():
            setattr(attention, name, value)
        if own is not None:
            # All attentions share one config: changing it would change every block.
            attention.config = copy.copy(attention.config)
            # Else transformers would answer from the list of blocks.
            attention.config.__dict__.pop("_heterogeneity_spec", None)
            for name, value in own.items():
                setattr(attention.config, name, value)


def settled_numbers(block: Block) -> dict[str, Any]:
    """What the attention module keeps of its sizes, by attribute; `config` holds those of a config of its own."""
    (attention,), sizes = block.attentions, block.sizes
    numbers = {
        "num_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "num_key_value_groups": sizes.heads // max(sizes.kv_heads, 1),
        "split_size": sizes.heads * attention.width,
    }
    known: dict[str, Any] = {name: value for name, value in numbers.items() if hasattr(attention.module, name)}
    if len(attention.inputs) == 1 and hasattr(attention.module, "config"):
        known["config"] = {"num_attention_heads": sizes.heads}  # Phi-3 splits its fused rows by the config's counts
    return known


def shrunk_config(document: dict[str, Any], config: PretrainedConfig, sizes: Sequence[Sizes]) -> dict[str, Any]:
    """config.json of a model whose blocks have these sizes.

    Equal sizes that the stock class can express change its own fields, so that plain
    transformers loads the model. Else the standard `per_layer_config` lists them; the
    global fields keep the dense sizes, which some classes check and so must be let
    read. Raises ModelError when the config class takes none of this.
    """
    row, width = DECODERS[config.model_type], head_dim(config)
    plain = {key: value for key, value in document.items() if key != "per_layer_config"} | {"head_dim": width}
    same_heads = sizes[0].heads * width == config.hidden_size
    candidates = []
    if len(set(sizes)) == 1 and (row.free_heads or same_heads) and row.ffn_field:
        candidates.append(plain | _fields(row, sizes[0]))
    if row.free_heads:
        dense = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        plain = {"num_key_value_heads": dense, **plain}  # a document may leave it to the class
    layers = {str(number): _fields(row, block) for number, block in enumerate(sizes)}
    listed = plain | {"per_layer_config": layers}
    candidates += [listed, listed | {"allow_global_per_layer_attribute_access": True}]
    for candidate in candidates:
        if _accepted(config, candidate):
            return candidate
    raise ModelError(f"{type(config).__name__} takes no sizes by layer: prune it by zeros, or update transformers")


def _fields(row: Decoder, sizes: Sizes) -> dict[str, int]:
    fields = {row.heads_field: sizes.heads, row.ffn_field or "intermediate_size": sizes.ffn}
    shared = row.free_heads or sizes.kv_heads != sizes.heads
    return fields | ({"num_key_value_heads": sizes.kv_heads} if shared else {})


def _accepted(config: PretrainedConfig, document: dict[str, Any]) -> bool:
    """Whether the config class takes this document."""
    try:
        return type(config).from_dict(copy.deepcopy(document)) is not None
    except Exception:  # strict configs raise many kinds; any means no
        return False

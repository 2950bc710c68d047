"""Encoders and encoder-decoders by their table: attentions, and heads of their own in every one."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from secateur.adapt.attention import Attention, Kind
from secateur.adapt.block import Block, Stage
from secateur.adapt.encoder_table import ENCODERS, Stack
from secateur.adapt.layer import Layer
from secateur.core.errors import ModelError

__all__ = ["encoder_blocks", "head_numbers", "heads_config", "lists_heads", "resize_heads_", "settle_heads_"]

_STAGES: dict[Kind, str] = {"encoder": "attention", "decoder": "attention", "cross": "cross"}


def encoder_blocks(model: PreTrainedModel) -> tuple[Block, ...]:
    """All blocks, an encoder's before a decoder's; their stages are those of the attentions alone.

    Raises AttributeError where a named part is missing.
    """
    root = model.base_model
    prefix = "" if root is model else f"{model.base_model_prefix}."
    rows = ENCODERS[model.config.model_type]
    if rows[0].shared and (model.config.num_hidden_groups, model.config.inner_group_num) != (1, 1):
        raise ModelError(
            f"{type(model).__name__} shares its layers in {model.config.num_hidden_groups} groups of "
            f"{model.config.inner_group_num}: heads are removed where all layers are one"
        )
    return tuple(
        _block(prefix, name, number, root, [row for row in rows if row.blocks == place])
        for place in dict.fromkeys(row.blocks for row in rows)
        for number, name in enumerate(_names(root, place))
    )


def _names(root: nn.Module, place: str) -> list[str]:
    """The names of all blocks of a list; a * in `place` stands for every part of an outer list."""
    outer, star, inner = place.partition(".*.")
    if star:
        return [name for stage in _names(root, outer) for name in _names(root, f"{stage}.{inner}")]
    return [f"{place}.{name}" for name, _ in root.get_submodule(place).named_children()]


def _block(prefix: str, within: str, number: int, root: nn.Module, rows: Sequence[Stack]) -> Block:
    name, module = f"{prefix}{within}", root.get_submodule(within)
    stages: list[Stage] = []
    attentions: list[Attention] = []
    for row in rows:
        *inputs, output = (Layer(f"{name}.{part}", module.get_submodule(part)) for part in (*row.inputs, row.output))
        own: Any = module.get_submodule(row.module)
        width = int(getattr(own, row.width_field))
        place = f"{name}.{row.module.removesuffix('.self')}"
        more: dict[str, Any] = {"no_heads": _why_kept(row, own, root), "needs_a_head": row.needs_a_head}
        more |= {"tables": _tables(name, module, row), "picks_bias": row.picks_bias}
        attentions.append(Attention(place, row.kind, number, width, tuple(inputs), output, own, **more))
        stages.append(Stage(f"{_STAGES[row.kind]}_in", tuple(inputs)))
        stages.append(Stage(f"{_STAGES[row.kind]}_out", (output,)))
    return Block(name, number, module, tuple(stages), tuple(attentions))


def _tables(name: str, block: nn.Module, row: Stack) -> tuple[Layer, ...]:
    """The table of position biases of a block that has one, `[heads, positions]`."""
    table = _part(block, row.table) if row.table else None
    if table is None:
        return ()
    return (Layer(f"{name}.{row.table}", table, "relative_position_bias_table", axis=1),)


def _part(module: nn.Module, path: str) -> nn.Module | None:
    """A part by its path, None where a class leaves it out."""
    found: nn.Module | None = module
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def _why_kept(row: Stack, own: nn.Module, root: nn.Module) -> str:
    """Why heads stay, if they do."""
    apart = [name for name in row.apart if hasattr(own, name)]
    if apart:
        return f"{apart[0]} has their rows too"
    return f"{row.all_blocks} has biases of all blocks' heads" if row.all_blocks and _part(root, row.all_blocks) else ""


def lists_heads(config: PretrainedConfig) -> bool:
    """Whether a config lists the heads of every attention."""
    return getattr(config, "heads_per_layer", None) is not None or bool(getattr(config, "is_heterogeneous", False))


def _listed(config: PretrainedConfig) -> dict[Kind, list[int]]:
    """Heads of every attention by kind.

    A single stack has them in `per_layer_config`, others in `heads_per_layer`.
    """
    listed = getattr(config, "heads_per_layer", None)
    if listed is not None:
        return {kind: [int(count) for count in counts] for kind, counts in listed.items()}
    (stack,) = ENCODERS[config.model_type]
    counts = [int(getattr(layer, stack.heads_field)) for layer in config.per_layer_config]
    return {stack.kind: counts[:1] if stack.shared else counts}


def resize_heads_(blocks: Sequence[Block], config: PretrainedConfig) -> None:
    """Give every attention room for the heads that the config lists, without values.

    Raises ModelError on other lengths.
    """
    counts = _listed(config)
    attentions = [attention for block in blocks for attention in block.attentions]
    for kind in dict.fromkeys(attention.kind for attention in attentions):
        same = [attention for attention in attentions if attention.kind == kind]
        if len(counts.get(kind, ())) != len(same):
            raise ModelError(f"the config lists heads of {len(counts.get(kind, ()))} {kind} layers, not {len(same)}")
        for attention, heads in zip(same, counts[kind], strict=True):
            inner = heads * attention.width
            for layer in attention.inputs:
                layer.reshape_(attention.parts * inner, layer.weight.shape[1])
            for table in attention.tables:
                table.reshape_(heads, table.weight.shape[1])
            attention.output.reshape_(attention.output.weight.shape[0], inner)
    settle_heads_(blocks)


def settle_heads_(blocks: Sequence[Block]) -> None:
    """Let every attention compute its relative position bias itself, so that blocks may differ in heads.

    Tables that later blocks lack start as copies of the first block's, which has a column for every head.
    """
    first: dict[Kind, nn.Embedding] = {}
    for attention in (attention for block in blocks for attention in block.attentions):
        module: Any = attention.module
        for name, value in head_numbers(attention).items():
            setattr(module, name, value)
        if attention.picks_bias and not hasattr(module, "kept_heads"):
            # Which dense heads these are comes with the checkpoint, where heads were cut before.
            module.register_buffer("kept_heads", torch.arange(attention.heads, device=attention.output.weight.device))
            module.register_forward_pre_hook(_pick_bias)
        if not hasattr(module, "has_relative_attention_bias"):
            continue
        module.n_heads = attention.heads
        if not getattr(module, "computes_own_bias", False):
            # T5 hands the first block's bias on to all others, and theirs may have other heads.
            module.register_forward_pre_hook(_forget_bias, with_kwargs=True)
            module.computes_own_bias = True
        if attention.kind != "cross":  # which has no positions of its own
            table = module.relative_attention_bias if module.has_relative_attention_bias else first[attention.kind]
            first.setdefault(attention.kind, table)  # only the first block of a stack has a table in the stock class
            _own_table_(module, table)


def head_numbers(attention: Attention) -> dict[str, int]:
    """What an attention's module keeps that follows from its heads, by attribute."""
    heads = attention.heads
    counts = {"num_attention_heads": heads, "num_heads": heads, "all_head_size": heads * attention.width}
    return {name: value for name, value in counts.items() if hasattr(attention.module, name)}


def _own_table_(module: Any, table: nn.Embedding) -> None:
    weight = table.weight.detach()
    if weight.shape[1] != module.n_heads:
        weight = weight.new_empty(len(weight), module.n_heads)  # [buckets, heads]: values come with the checkpoint
    elif module.has_relative_attention_bias:
        return
    module.relative_attention_bias = nn.Embedding.from_pretrained(weight.clone())
    module.has_relative_attention_bias = True


def _pick_bias(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(args) < 3 or args[2] is None:
        return args
    return (*args[:2], args[2][:, module.kept_heads], *args[3:])


def _forget_bias(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, kwargs | ({"position_bias": None} if "position_bias" in kwargs else {})


def heads_config(document: dict[str, Any], config: PretrainedConfig, blocks: Sequence[Block]) -> dict[str, Any]:
    """config.json of a model whose attentions have other heads than its class gives them.

    A single stack whose config counts them lists them in the standard `per_layer_config`; a model of two stacks, and
    one whose config counts them elsewhere, in `heads_per_layer`, by kind. The global fields keep the dense counts.
    """
    rows = ENCODERS[config.model_type]
    attentions = [attention for block in blocks for attention in block.attentions]
    counted = lists_heads(config) or isinstance(getattr(config, rows[0].heads_field, None), int)
    if len(rows) == 1 and counted and getattr(config, "heads_per_layer", None) is None:
        if rows[0].shared:
            attentions = attentions[:1] * int(config.num_hidden_layers)
        layers = {str(number): {rows[0].heads_field: one.heads} for number, one in enumerate(attentions)}
        return document | {"per_layer_config": layers}
    counts = {row.kind: [attention.heads for attention in attentions if attention.kind == row.kind] for row in rows}
    return document | {"heads_per_layer": counts}

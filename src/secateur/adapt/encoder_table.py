"""attentions(model): every attention of an encoder, a decoder or both, by a table of names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from secateur.adapt.adapter import Adapter, Layer
from secateur.adapt.attention import Attention, Kind
from secateur.adapt.decoder_table import DECODERS
from secateur.adapt.sites import block_attention, head_dim
from secateur.core.errors import ModelError
from secateur.core.seed import generator

__all__ = ["ENCODERS", "Stack", "attentions", "example_batch", "gives_own_bias_", "head_counts", "resize_heads_"]


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Where one stack keeps an attention; `blocks` counts from the model without its task head.

    module: what keeps the counts; the layers count from it, output may stand beside it.
    width_field: its attribute for the width of one head. heads_field: what the config calls the count.
    relative_bias: the first block's table of position biases, one column a head, is shared by all.
    """

    kind: Kind
    blocks: str
    module: str
    inputs: tuple[str, str, str]
    output: str
    width_field: str = "head_dim"
    heads_field: str = "num_attention_heads"
    relative_bias: bool = False


_BERT = Stack(
    kind="encoder",
    blocks="encoder.layer",
    module="attention.self",
    inputs=("attention.self.query", "attention.self.key", "attention.self.value"),
    output="attention.output.dense",
    width_field="attention_head_size",
)
_DISTILBERT = Stack(
    kind="encoder",
    blocks="transformer.layer",
    module="attention",
    inputs=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    output="attention.out_lin",
    width_field="attention_head_size",
    heads_field="n_heads",
)
_VIT = Stack(
    kind="encoder",
    blocks="layers",
    module="attention",
    inputs=("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    output="attention.o_proj",
)


def _bart(kind: Kind, side: str, module: str) -> Stack:
    inputs = (f"{module}.q_proj", f"{module}.k_proj", f"{module}.v_proj")
    return Stack(kind=kind, blocks=f"{side}.layers", module=module, inputs=inputs, output=f"{module}.out_proj")


def _t5(kind: Kind, side: str, module: str, *, relative_bias: bool = True) -> Stack:
    return Stack(
        kind=kind,
        blocks=f"{side}.block",
        module=module,
        inputs=(f"{module}.q", f"{module}.k", f"{module}.v"),
        output=f"{module}.o",
        width_field="key_value_proj_dim",
        relative_bias=relative_bias,
    )


_BART = (
    _bart("encoder", "encoder", "self_attn"),
    _bart("decoder", "decoder", "self_attn"),
    _bart("cross", "decoder", "encoder_attn"),
)
_T5 = (
    _t5("encoder", "encoder", "layer.0.SelfAttention"),
    _t5("decoder", "decoder", "layer.0.SelfAttention"),
    _t5("cross", "decoder", "layer.1.EncDecAttention", relative_bias=False),
)
ENCODERS: Mapping[str, tuple[Stack, ...]] = {
    "bert": (_BERT,),
    "roberta": (_BERT,),
    "xlm-roberta": (_BERT,),
    "electra": (_BERT,),
    "distilbert": (_DISTILBERT,),
    "vit": (_VIT,),
    "deit": (_VIT,),
    "bart": _BART,
    "mbart": _BART,
    "marian": _BART,
    "t5": _T5,
    "mt5": _T5,
}


def attentions(model: PreTrainedModel) -> list[Attention]:
    """Every attention in forward order, an encoder's before a decoder's own, and that before the cross ones.

    Raises ModelError for a family that is not in the tables.
    """
    if model.config.model_type in DECODERS:
        width = head_dim(model.config)
        return [block_attention(block, width) for block in Adapter(model).blocks()]
    if model.config.model_type not in ENCODERS:
        known = ", ".join(sorted((*DECODERS, *ENCODERS)))
        raise ModelError(
            f"architecture {model.config.model_type!r} is not in the tables of attentions ({known}): add a row to "
            "secateur/adapt/encoder_table.py, see docs/heads.md"
        )
    return [attention for stack in ENCODERS[model.config.model_type] for attention in _stack(model, stack)]


def _stack(model: PreTrainedModel, stack: Stack) -> list[Attention]:
    root = model.base_model
    prefix = "" if root is model else f"{model.base_model_prefix}."
    all_attentions: list[Attention] = []
    try:
        for number, block in enumerate(root.get_submodule(stack.blocks).children()):
            place = f"{prefix}{stack.blocks}.{number}"
            module: Any = block.get_submodule(stack.module)
            layers = [Layer(f"{place}.{name}", block.get_submodule(name)) for name in (*stack.inputs, stack.output)]
            name = f"{place}.{stack.module.removesuffix('.self')}"
            width = int(getattr(module, stack.width_field))
            all_attentions.append(Attention(name, stack.kind, number, width, tuple(layers[:3]), layers[3], module))
    except AttributeError as error:
        raise ModelError(
            f"{type(model).__name__} does not look like its family {model.config.model_type!r}: {error}"
        ) from error
    return all_attentions


def head_counts(config: PretrainedConfig) -> dict[Kind, list[int]] | None:
    """Heads of every attention by kind, where a config lists them; else None.

    A single stack has them in `per_layer_config`; a model of two in `heads_per_layer`.
    """
    listed = getattr(config, "heads_per_layer", None)
    if listed is not None:
        return {kind: [int(count) for count in counts] for kind, counts in listed.items()}
    if not getattr(config, "is_heterogeneous", False):
        return None
    (stack,) = ENCODERS[config.model_type]
    return {stack.kind: [int(getattr(layer, stack.heads_field)) for layer in config.per_layer_config]}


def resize_heads_(model: PreTrainedModel, counts: Mapping[Kind, Sequence[int]]) -> None:
    """Give every attention room for that many heads, without values. Raises ModelError on other lengths."""
    all_attentions = attentions(model)
    for kind in dict.fromkeys(attention.kind for attention in all_attentions):
        same = [attention for attention in all_attentions if attention.kind == kind]
        if len(counts.get(kind, ())) != len(same):
            raise ModelError(f"the config lists heads of {len(counts.get(kind, ()))} {kind} layers, not {len(same)}")
        for attention, heads in zip(same, counts[kind], strict=True):
            inner = heads * attention.width
            for layer in attention.inputs:
                layer.reshape_(inner, layer.weight.shape[1])
            attention.output.reshape_(attention.output.weight.shape[0], inner)
    gives_own_bias_(model)


def gives_own_bias_(model: PreTrainedModel) -> None:
    """Let every attention compute its relative position bias itself, so that blocks may differ in heads.

    Tables that later blocks lack start as copies of the first block's, which has a column for every head.
    """
    stacks = {stack.kind: stack for stack in ENCODERS.get(model.config.model_type, ())}
    first: dict[Kind, nn.Embedding] = {}
    for attention in attentions(model):
        module: Any = attention.module
        if attention.kind not in stacks or not hasattr(module, "has_relative_attention_bias"):
            continue
        module.n_heads = attention.heads
        if not getattr(module, "computes_own_bias", False):
            module.register_forward_pre_hook(_forget_bias, with_kwargs=True)
            module.computes_own_bias = True
        if stacks[attention.kind].relative_bias:
            table = module.relative_attention_bias if module.has_relative_attention_bias else first[attention.kind]
            first.setdefault(attention.kind, table)
            _own_table_(module, table)


def _own_table_(module: Any, table: nn.Embedding) -> None:
    weight = table.weight.detach()
    if weight.shape[1] != module.n_heads:
        weight = weight.new_empty(len(weight), module.n_heads)
    elif module.has_relative_attention_bias:
        return
    module.relative_attention_bias = nn.Embedding.from_pretrained(weight.clone())
    module.has_relative_attention_bias = True


def _forget_bias(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, kwargs | {"position_bias": None}


def example_batch(model: PreTrainedModel, tokens: int = 3) -> dict[str, Tensor]:
    """Two samples, drawn by a fixed seed, of what the model is called with; labels too where it translates."""
    config: Any = model.config
    stream = generator(0, "example", tokens)
    if model.main_input_name == "pixel_values":
        shape = (2, config.num_channels, config.image_size, config.image_size)
        return {"pixel_values": torch.rand(shape, generator=stream)}
    ids = torch.randint(config.vocab_size, (2, tokens), generator=stream)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return batch | ({"labels": ids[:, :2]} if config.is_encoder_decoder else {})

"""The table of encoders and encoder-decoders: where each stack keeps its attentions. A new model is one row."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from secateur.adapt.attention import Kind

__all__ = ["ENCODERS", "Stack"]


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Where one stack keeps an attention; `blocks` counts from the model without its task head.

    A * in `blocks` stands for every part of a list, where stages hold blocks of their own.
    module: what keeps the counts; the layers count from the block. inputs: query, key and value, or one fused layer.
    width_field: its attribute for the width of one head. heads_field: what the config calls the count.
    shared: every layer of the model is the one block there is. needs_a_head: the class cannot compute an attention
    without heads. apart: other layers of the module whose rows are heads'; where it has one, heads stay.
    table: a module of the block with a `relative_position_bias_table` of one column a head, if the block has it.
    all_blocks: a part of the model whose biases are those of all blocks' heads; where it is there, heads stay.
    picks_bias: the module is called with the biases of all dense heads, as its third argument, and takes its heads'.
    """

    kind: Kind
    blocks: str
    module: str
    inputs: tuple[str, ...]
    output: str
    width_field: str = "head_dim"
    heads_field: str = "num_attention_heads"
    shared: bool = False
    needs_a_head: bool = False
    apart: tuple[str, ...] = ()
    table: str = ""
    all_blocks: str = ""
    picks_bias: bool = False


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
_ALBERT = Stack(
    kind="encoder",
    blocks="encoder.albert_layer_groups.0.albert_layers",
    module="attention",
    inputs=("attention.query", "attention.key", "attention.value"),
    output="attention.dense",
    width_field="attention_head_size",
    shared=True,
)
_DEBERTA = Stack(
    kind="encoder",
    blocks="encoder.layer",
    module="attention.self",
    inputs=("attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"),
    output="attention.output.dense",
    width_field="attention_head_size",
    needs_a_head=True,
    apart=("pos_key_proj", "pos_query_proj"),
)


def _vit(blocks: str) -> Stack:
    inputs = ("attention.q_proj", "attention.k_proj", "attention.v_proj")
    return Stack(kind="encoder", blocks=blocks, module="attention", inputs=inputs, output="attention.o_proj")


def _bart(kind: Kind, side: str, module: str) -> Stack:
    inputs = (f"{module}.q_proj", f"{module}.k_proj", f"{module}.v_proj")
    return Stack(kind=kind, blocks=f"{side}.layers", module=module, inputs=inputs, output=f"{module}.out_proj")


def _t5(kind: Kind, side: str, module: str) -> Stack:
    return Stack(
        kind=kind,
        blocks=f"{side}.block",
        module=module,
        inputs=(f"{module}.q", f"{module}.k", f"{module}.v"),
        output=f"{module}.o",
        width_field="key_value_proj_dim",
    )


_BART = (
    _bart("encoder", "encoder", "self_attn"),
    _bart("decoder", "decoder", "self_attn"),
    _bart("cross", "decoder", "encoder_attn"),
)
_T5 = (
    _t5("encoder", "encoder", "layer.0.SelfAttention"),
    _t5("decoder", "decoder", "layer.0.SelfAttention"),
    _t5("cross", "decoder", "layer.1.EncDecAttention"),
)
_UMT5 = tuple(replace(stack, needs_a_head=True) for stack in _T5)
_WHISPER = tuple(replace(stack, needs_a_head=True) for stack in _BART)
_MODERNBERT = Stack(
    kind="encoder", blocks="layers", module="attn", inputs=("attn.Wqkv",), output="attn.Wo", width_field="head_dim"
)
_MPNET = Stack(
    kind="encoder",
    blocks="encoder.layer",
    module="attention.attn",
    inputs=("attention.attn.q", "attention.attn.k", "attention.attn.v"),
    output="attention.attn.o",
    width_field="attention_head_size",
    picks_bias=True,
)
_BEIT = replace(_vit("layers"), table="relative_position_bias", all_blocks="shared_position_bias", needs_a_head=True)
_DATA2VEC_VISION = Stack(
    kind="encoder",
    blocks="encoder.layer",
    module="attention.attention",
    inputs=("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    output="attention.output.dense",
    width_field="attention_head_size",
    table="attention.attention.relative_position_bias",
    all_blocks="encoder.relative_position_bias",
    needs_a_head=True,
)
_SWIN = replace(_vit("encoder.layers.*.blocks"), table="attention.relative_position_bias", heads_field="num_heads")
ENCODERS: Mapping[str, tuple[Stack, ...]] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra", "camembert", "data2vec-text", "ernie"), (_BERT,)),
    **dict.fromkeys(("esm", "layoutlm", "megatron-bert", "rembert", "roberta-prelayernorm"), (_BERT,)),
    **dict.fromkeys(("xlm-roberta-xl", "xmod"), (_BERT,)),
    "albert": (_ALBERT,),
    "deberta-v2": (_DEBERTA,),
    "distilbert": (_DISTILBERT,),
    **dict.fromkeys(("vit", "deit", "ijepa", "vit_msn"), (_vit("layers"),)),
    **dict.fromkeys(("dinov2", "dinov2_with_registers"), (_vit("encoder.layer"),)),
    **dict.fromkeys(("bart", "mbart", "marian", "blenderbot", "blenderbot-small", "m2m_100"), _BART),
    **dict.fromkeys(("pegasus", "plbart"), _BART),
    "t5": _T5,
    "mt5": _T5,
    "umt5": _UMT5,
    "beit": (_BEIT,),
    **dict.fromkeys(("clip", "siglip"), (_bart("encoder", "vision_model.encoder", "self_attn"),)),
    "data2vec-vision": (_DATA2VEC_VISION,),
    "modernbert": (_MODERNBERT,),
    "mpnet": (_MPNET,),
    "swin": (_SWIN,),
    **dict.fromkeys(("wav2vec2", "hubert", "data2vec-audio"), (_bart("encoder", "encoder", "attention"),)),
    "whisper": _WHISPER,
}

"""The table of decoder families: where each keeps its parts. A new model is one row, here or in another package."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from secateur.adapt.encoder_table import ENCODERS
from secateur.registry import Table

__all__ = ["DECODERS", "Decoder"]


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """Names of a decoder's parts; all but `blocks` are relative to a block.

    attention_in and ffn_in are layers that read the same tensor. A family without
    an ffn module keeps those layers in the block itself. norms feed attention and
    ffn and nothing else, so they can be skipped once those are done.
    adds_residual: attention and ffn take the residual as second argument and add it.
    fused: how a single attention_in layer orders its rows: q, k, v as three parts, or head by head.
    free_heads: the class takes a head_dim of its own, so that fewer heads load in it.
    heads_field, ffn_field: what the config calls the sizes; ffn_field None when it has no say.
    no_heads: why heads cannot be cut out, where they cannot.
    needs_a_head: the class cannot compute an attention without heads, so an emptied one keeps a silent head.
    bias_fields: config switches that give every layer of a block a bias it lacks.
    """

    blocks: str = "model.layers"
    attention: str = "self_attn"
    attention_in: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    attention_out: str = "self_attn.o_proj"
    ffn: str | None = "mlp"
    ffn_in: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    ffn_out: str = "mlp.down_proj"
    norms: tuple[str, str] | None = ("input_layernorm", "post_attention_layernorm")
    adds_residual: bool = False
    fused: Literal["parts", "heads"] = "parts"
    free_heads: bool = True
    heads_field: str = "num_attention_heads"
    ffn_field: str | None = "intermediate_size"
    no_heads: str = ""
    needs_a_head: bool = False
    bias_fields: tuple[str, ...] = ()


_LLAMA = Decoder()
_GEMMA = Decoder(norms=("input_layernorm", "pre_feedforward_layernorm"))

_ROWS: Mapping[str, Decoder] = {
    "llama": Decoder(bias_fields=("attention_bias", "mlp_bias")),
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "phi3": Decoder(attention_in=("self_attn.qkv_proj",), ffn_in=("mlp.gate_up_proj",)),
    "gpt2": Decoder(
        blocks="transformer.h",
        attention="attn",
        attention_in=("attn.c_attn",),
        attention_out="attn.c_proj",
        ffn_in=("mlp.c_fc",),
        ffn_out="mlp.c_proj",
        norms=("ln_1", "ln_2"),
        free_heads=False,
        needs_a_head=True,
        heads_field="n_head",
        ffn_field="n_inner",
    ),
    "gpt_neox": Decoder(
        blocks="gpt_neox.layers",
        attention="attention",
        attention_in=("attention.query_key_value",),
        attention_out="attention.dense",
        ffn_in=("mlp.dense_h_to_4h",),
        ffn_out="mlp.dense_4h_to_h",
        fused="heads",
        free_heads=False,
    ),
    "opt": Decoder(
        blocks="model.decoder.layers",
        attention_out="self_attn.out_proj",
        ffn=None,
        ffn_in=("fc1",),
        ffn_out="fc2",
        norms=None,  # one checkpoint (350m) puts them after attention, where they may not be skipped
        free_heads=False,
        needs_a_head=True,
        ffn_field="ffn_dim",
    ),
    "bloom": Decoder(
        blocks="transformer.h",
        attention="self_attention",
        attention_in=("self_attention.query_key_value",),
        attention_out="self_attention.dense",
        ffn_in=("mlp.dense_h_to_4h",),
        ffn_out="mlp.dense_4h_to_h",
        norms=None,  # the ffn's residual may be taken after the norm
        adds_residual=True,
        fused="heads",
        heads_field="n_head",
        ffn_field=None,
        no_heads="its ALiBi slopes belong to head positions",
    ),
}

# A package's row is an entry point of this group that loads to a Decoder; its name is the model_type.
DECODERS: Table[Decoder] = Table("family", _ROWS, group="secateur.families", wanted=Decoder, taken=ENCODERS)

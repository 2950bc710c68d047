"""GGUF for llama.cpp: architecture `deci`, which has sizes of its own in every block."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from secateur.adapt.decoder import head_dim
from secateur.adapt.pretokenizer import pretokenizer_name
from secateur.adapt.structure import Structure
from secateur.core.errors import InputError, ModelError
from secateur.core.files import read_document
from secateur.export.formats import QUANTIZATIONS
from secateur.storage.shards import Checkpoint
from secateur.storage.source import Source, skeleton

__all__ = ["write_gguf"]

_log = logging.getLogger(__name__)
_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(source: Source, out: Path, quantize: str = "f32") -> None:
    """Write a Llama-type model folder, tokenizer included, as one GGUF file.

    quantize: what matrices are stored as; those whose width is no multiple of 32, which is
    a block of the q types, stay f16, and norms f32.
    One tensor is held at a time. Raises ModelError on other architectures, biases or
    scaled rotary embeddings, which `deci` does not have, and InputError on tokenizers
    other than byte-level BPE and on an unknown quantization.
    """
    if quantize not in QUANTIZATIONS:
        raise InputError(f"quantization {quantize!r} is unknown: use {', '.join(QUANTIZATIONS)}")
    try:
        import gguf
    except ImportError as error:
        raise InputError("writing GGUF needs the gguf package: pip install 'secateur[gguf]'") from error
    structure = skeleton(source)
    config = structure.model.config
    _check(structure)
    checkpoint = Checkpoint(source.folder)
    writer: Any = gguf.GGUFWriter(out, "deci")
    _write_sizes(writer, structure)
    writer.add_file_type(gguf.LlamaFileType["ALL_F32" if quantize == "f32" else f"MOSTLY_{quantize.upper()}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _write_tokenizer(writer, source.folder, config.vocab_size)
    left_out = _left_out(structure)
    plan = [name for name in checkpoint.names() if not name.startswith(left_out)]
    kinds = {name: _stored_as(checkpoint.info(name)[1], quantize) for name in plan}
    _warn_of_odd_widths(kinds, quantize)
    for name, kind in kinds.items():  # the file's header lists every tensor before the first one's data
        shape, (block, size) = checkpoint.info(name)[1], gguf.GGML_QUANT_SIZES[kind]
        length = int(np.prod(shape)) // block * size
        writer.add_tensor_info(_name(name), shape, np.dtype(np.float32), length, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name in plan:
        values = _values(name, checkpoint.read(name), head_dim(config))
        writer.write_tensor_data(gguf.quants.quantize(values, kinds[name]))
    writer.close()


def _left_out(structure: Structure) -> tuple[str, ...]:
    """Starts of names that are not written: a tied head, and attentions without heads with the norm before them."""
    empty = [attention.name for attention in structure.attentions if attention.heads == 0]
    tied = ["lm_head"] if structure.model.config.tie_word_embeddings else []
    return tuple(tied + [f"{name}.{part}." for name in empty for part in ("self_attn", "input_layernorm")])


def _check(structure: Structure) -> None:
    config = structure.model.config
    rope = getattr(config, "rope_parameters", None) or {}
    window = getattr(config, "sliding_window", None)
    if config.model_type not in ("llama", "mistral") or window:
        raise ModelError(
            f"GGUF of sizes by block holds Llama-type models only, this is {config.model_type!r}"
            f"{' with a sliding window' if window else ''}: a model of equal blocks goes through llama.cpp's converter"
        )
    if any(layer.bias is not None for layer in structure.layers):
        raise ModelError("llama.cpp's deci architecture has no biases, and this model has some")
    if rope.get("rope_type", "default") != "default":
        raise ModelError(f"rotary embeddings of type {rope['rope_type']!r} cannot be written to GGUF here")


def _write_sizes(writer: Any, structure: Structure) -> None:
    config, width = structure.model.config, head_dim(structure.model.config)
    sizes = structure.sizes
    writer.add_name(str(getattr(config, "name_or_path", "") or "secateur"))
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(len(sizes))
    writer.add_head_count([size.heads for size in sizes])
    writer.add_head_count_kv([size.kv_heads for size in sizes])
    writer.add_feed_forward_length([size.ffn for size in sizes])
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _name(stored: str) -> str:
    layer, _, leaf = stored.rpartition(".")
    if layer in _OUTSIDE:
        return f"{_OUTSIDE[layer]}.{leaf}"
    number, _, part = layer.removeprefix("model.layers.").partition(".")
    if part not in _NAMES:
        raise ModelError(f"GGUF has no place for {stored!r}")
    return f"blk.{number}.{_NAMES[part]}.{leaf}"


def _values(name: str, tensor: Tensor, width: int) -> Any:
    """float32 values; q and k rows move from halves to pairs, as llama.cpp rotates them."""
    array = tensor.float().numpy()
    if name.endswith(("q_proj.weight", "k_proj.weight")):
        rows, columns = array.shape
        # [heads, halves, pairs, in]
        array = array.reshape(rows // width, 2, width // 2, columns).swapaxes(1, 2).reshape(rows, columns)
    return np.ascontiguousarray(array)


def _stored_as(shape: Sequence[int], quantize: str) -> Any:
    """GGML's type of a tensor of this shape."""
    import gguf

    kind = gguf.GGMLQuantizationType[quantize.upper()]
    if len(shape) < 2:
        return gguf.GGMLQuantizationType.F32
    return gguf.GGMLQuantizationType.F16 if shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] else kind


def _warn_of_odd_widths(kinds: Mapping[str, Any], quantize: str) -> None:
    import gguf

    odd = sum(kind == gguf.GGMLQuantizationType.F16 for kind in kinds.values())
    if odd and quantize != "f16":
        _log.warning(
            "%d of %d tensors stay f16: their width is no multiple of 32, a block of %s (prune with --round-to 32)",
            odd,
            len(kinds),
            quantize,
        )


def _write_tokenizer(writer: Any, folder: Path, vocab_size: int) -> None:
    import gguf

    path = folder / "tokenizer.json"
    if not path.exists():
        raise InputError(f"{folder} has no tokenizer.json, and a GGUF file without a tokenizer cannot chat")
    document = read_document(path)
    model, added = document["model"], {entry["id"]: entry for entry in document.get("added_tokens", [])}
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise InputError(f"{path} is {model.get('type')}: only byte-level BPE tokenizers are written to GGUF here")
    words = {index: word for word, index in model["vocab"].items()} | {i: e["content"] for i, e in added.items()}
    tokens = [words.get(index, f"[PAD{index}]") for index in range(vocab_size)]
    kinds = [_kind(gguf.TokenType, index, words, added) for index in range(vocab_size)]
    writer.add_tokenizer_model("gpt2")  # llama.cpp's name of byte-level BPE
    writer.add_tokenizer_pre(pretokenizer_name(document))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    # Newer tokenizers list pairs, older ones write them with a space.
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    writer.add_token_merges(merges)
    gguf.SpecialVocab(folder, load_merges=False, n_vocab=vocab_size).add_to_gguf(writer, quiet=True)


def _kind(kinds: Any, index: int, words: dict[int, str], added: dict[int, Any]) -> int:
    if index not in words:
        return kinds.UNUSED
    if index in added:
        return kinds.CONTROL if added[index].get("special") else kinds.USER_DEFINED
    return kinds.NORMAL

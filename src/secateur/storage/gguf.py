"""A .gguf file as a model folder: weights as plain numbers, and the tokenizer that llama.cpp would use."""

import io
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from secateur.adapt.pretokenizer import set_pretokenizer_
from secateur.core.cache import cached, file_digest
from secateur.core.errors import InputError, ModelError, first_line
from secateur.storage.loading import check_report, quiet

__all__ = ["convert_gguf"]

_FORMAT = "2"  # of what conversion writes; another number makes every cached folder anew


def convert_gguf(gguf: Path) -> Path:
    """The folder a .gguf file is converted to, once; cached by the file's content.

    Weights that were quantised become bfloat16, others keep their kind. Raises ModelError when transformers cannot
    read the file or it lacks tensors, InputError without the gguf package.
    """
    return cached(f"gguf-{gguf.stem[:40]}", lambda target: _convert(gguf, target), of=(file_digest(gguf), _FORMAT))


def _convert(gguf: Path, target: Path) -> None:
    room = target.with_name("alone")  # whatever lies beside the file is none of its business
    room.mkdir()
    (room / "model.gguf").symlink_to(gguf.resolve())
    given: dict[str, Any] = {"gguf_file": "model.gguf", "trust_remote_code": False}
    try:
        with quiet(), redirect_stderr(io.StringIO()):  # bars that no switch turns off
            pretokenizer, stored = _read(gguf)
            tokenizer = AutoTokenizer.from_pretrained(room, **given)
            auto: Any = AutoModelForCausalLM
            model, report = auto.from_pretrained(room, dtype=torch.float32, output_loading_info=True, **given)
        set_pretokenizer_(tokenizer, pretokenizer)
    except InputError:
        raise
    except Exception as error:  # transformers raises many kinds for a broken or unknown file
        raise ModelError(f"{gguf} cannot be read by transformers: {first_line(error)}") from error
    check_report(report, gguf)
    vars(model.config).pop("quantization_config", None)  # the weights are plain numbers now
    vars(model)["hf_quantizer"] = None
    with quiet():
        model.to(stored).save_pretrained(target)
        tokenizer.save_pretrained(target)


def _read(gguf: Path) -> tuple[str | None, torch.dtype]:
    """The name of the pre-tokenizer, and what weights are kept as: bfloat16 unless the file holds more."""
    try:
        from gguf import GGMLQuantizationType, GGUFReader
    except ImportError as error:
        raise InputError("reading .gguf files needs the gguf package: pip install 'secateur[gguf]'") from error
    reader = GGUFReader(gguf)
    architecture = reader.get_field("general.architecture")
    if architecture is not None and architecture.contents() == "deci":
        raise InputError(f"{gguf} holds architecture 'deci', which llama.cpp alone reads: give the model's folder")
    field = reader.get_field("tokenizer.ggml.pre")
    kinds = {tensor.tensor_type for tensor in reader.tensors if len(tensor.shape) > 1}
    wide = {GGMLQuantizationType.F32: torch.float32, GGMLQuantizationType.F16: torch.float16}
    stored = next((dtype for kind, dtype in wide.items() if kind in kinds), torch.bfloat16)
    return None if field is None else str(field.contents()), stored

"""convert(folder, format, out): a model folder in another format, whole or not at all."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from secateur.adapt.example import example_batch
from secateur.adapt.structure import kind_of
from secateur.core.errors import InputError
from secateur.core.files import check_output, new_file, new_folder, storage_errors
from secateur.export.decilm import write_decilm
from secateur.export.formats import FORMATS
from secateur.export.gguf import write_gguf
from secateur.export.onnx import write_forward_onnx, write_onnx
from secateur.export.packed import write_packed
from secateur.export.standalone import write_standalone
from secateur.registry import check_name
from secateur.storage.folder import copy_companions
from secateur.storage.source import Source, load_with_head, resolve

__all__ = ["convert"]


def _onnx(source: Source, out: Path) -> None:
    """A decoder with its cache, anything else as one forward pass."""
    model = load_with_head(source, torch.float32)
    copy_companions(source.folder, out, code=source.trusted)
    kind = kind_of(model.config)
    if kind is not None and kind.causal:
        write_onnx(model, out)
    else:
        write_forward_onnx(model, example_batch(model), out)


_FOLDERS: Mapping[str, Callable[[Source, Path], None]] = {
    "onnx": _onnx,
    "decilm": write_decilm,
    "standalone": write_standalone,
    "packed": write_packed,
}


def convert(model: str | Source, to: str, out: Path, *, quantize: str = "f32") -> Path:
    """Write `model` as gguf (a file), onnx, decilm, standalone or packed (folders) under its name once it is whole.

    quantize: of a gguf. Raises InputError on another format, on a quantization it does not have or when `out` exists.
    """
    check_name("format", to, FORMATS)
    if quantize != "f32" and to != "gguf":
        raise InputError(f"only gguf files are quantised, and {quantize!r} was asked of {to!r}: leave --quantize out")
    check_output(out)  # before the model is loaded
    source = resolve(model)
    if to != "gguf":
        with new_folder(out) as folder:
            _FOLDERS[to](source, folder)
        return out
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with new_file(out) as file:
            write_gguf(source, file, quantize)
    return out

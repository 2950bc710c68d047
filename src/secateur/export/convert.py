"""convert(folder, format, out): a model folder in another format, whole or not at all."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from secateur.adapt.families import FAMILIES
from secateur.adapt.source import load, resolve
from secateur.adapt.stacks import example_batch
from secateur.core.document import storage_errors
from secateur.core.errors import InputError
from secateur.export.decilm import write_decilm
from secateur.export.gguf import write_gguf
from secateur.export.onnx import write_forward_onnx, write_onnx
from secateur.export.standalone import write_standalone

__all__ = ["convert"]


def _onnx(folder: Path, out: Path) -> None:
    """A decoder with its cache, anything else as one forward pass."""
    model = load(folder, torch.float32)
    if model.config.model_type in FAMILIES:
        write_onnx(model, out)
    else:
        write_forward_onnx(model, example_batch(model), out)


_FOLDERS: Mapping[str, Callable[[Path, Path], None]] = {
    "onnx": _onnx,
    "decilm": write_decilm,
    "standalone": write_standalone,
}


def convert(model: str, to: str, out: Path, *, quantize: str = "f32") -> Path:
    """Write `model` as gguf (a file), onnx, decilm or standalone (folders) under its name once it is whole.

    quantize: of a gguf. Raises InputError on another format, on a quantization it does not have or when `out` exists.
    """
    if quantize != "f32" and to != "gguf":
        raise InputError(f"only gguf files are quantised, and {quantize!r} was asked of {to!r}: leave --quantize out")
    if to not in ("gguf", *_FOLDERS):
        raise InputError(f"format {to!r} is unknown: use gguf, {', '.join(_FOLDERS)}")
    if out.exists():
        raise InputError(f"output {str(out)!r} already exists: remove it or name another")
    partial = out.with_name(out.name + ".partial")
    try:
        with storage_errors(out):
            partial.parent.mkdir(parents=True, exist_ok=True)
            if to == "gguf":
                write_gguf(resolve(model), partial, quantize)
            else:
                partial.mkdir()
                _FOLDERS[to](resolve(model), partial)
            partial.replace(out)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        partial.unlink(missing_ok=True)
    return out

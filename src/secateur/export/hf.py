"""A model folder that plain transformers loads: config, safetensors, tokenizer files."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from torch import Tensor

from secateur.calibrate.shards import Checkpoint, TensorInfo, write_checkpoint

__all__ = ["copy_companions", "write_pruned"]

_SHARD_BYTES = 5_000_000_000
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")


def copy_companions(source: Path, target: Path) -> None:
    """Copy config, tokenizer and generation files: everything small that is not weights or code."""
    for file in sorted(source.iterdir()):
        if file.is_file() and not file.name.startswith(".") and not _weights_or_code(file):
            shutil.copyfile(file, target / file.name)


def _weights_or_code(file: Path) -> bool:
    ours = file.name in ("result.json", "README.md")
    return ours or file.suffix in (*_WEIGHTS, ".py") or file.name.endswith(".index.json")


def write_pruned(
    checkpoint: Checkpoint,
    target: Path,
    replacement: Callable[[str], Tensor | None],
    info: Callable[[str], TensorInfo] | None = None,
    renamed: Callable[[str], str | None] | None = None,
    added: Mapping[str, Tensor] | None = None,
) -> None:
    """Stream the checkpoint to `target`, with some tensors replaced; dtype is kept.

    One tensor is held at a time, so memory does not grow with the model. `info` tells
    dtype and shape of what is written where shapes change; `renamed` a tensor's new
    name, or None where it is left out; `added` holds tensors the checkpoint lacks.
    """
    added = added or {}
    names = {name: renamed(name) if renamed else name for name in checkpoint.names()}
    plan = {new: (info or checkpoint.info)(name) for name, new in names.items() if new is not None}
    plan |= {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in added.items()}

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name, new in names.items():
            if new is not None:
                changed = replacement(name)
                yield new, checkpoint.read(name) if changed is None else changed
        yield from added.items()

    write_checkpoint(target, plan, tensors(), shard_bytes=_SHARD_BYTES)

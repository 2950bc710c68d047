"""A model folder that plain transformers loads: config, safetensors, tokenizer files."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.core.errors import InputError, NumericalError
from secateur.core.files import parse_json, read_document, write_document
from secateur.storage.shards import Checkpoint, TensorInfo, write_checkpoint

__all__ = ["Edits", "copy_companions", "with_dtype", "without_lost_code", "write_pruned"]

_SHARD_BYTES = 5_000_000_000
# What saved models and tokenizers are made of besides weights. Nothing else is copied: no record of another
# run (cut.json, heads.json, ...), no adapter. sentence-transformers lists modules, some in folders of their own.
_COMPANIONS = (
    "config.json",
    "generation_config.json",
    "*processor_config.json",
    "feature_extractor_config.json",
    "chat_template*",
    "*.jinja",
    "tokenizer*",
    "*tokens*.json",
    "vocab*",
    "merges.txt",
    "normalizer.json",
    "*.spm",
    "*.model",
    "*.bpe",
    "bpe.codes",
    "dict.txt",
    "modules.json",
    "*sentence*.json",
    "LICENSE*",
    "NOTICE*",
)
_LEFT = (".py", ".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".pkl")
_MODULES = "modules.json"


def copy_companions(source: Path, target: Path, *, code: bool = False) -> None:
    """Copy config, tokenizer, generation and processor files, and the modules of a sentence-transformers model.

    Weights and records of other runs stay behind; code too, save where the user trusts it (`code`), and then configs
    name none. Raises InputError on a list of modules that is damaged.
    """
    for file in sorted(source.iterdir()):
        known = any(fnmatch(file.name, pattern) for pattern in _COMPANIONS)
        if known and file.is_file() and file.suffix not in _LEFT and not file.name.endswith(".index.json"):
            shutil.copyfile(file, target / file.name)
        elif code and file.suffix == ".py" and file.is_file():
            shutil.copyfile(file, target / file.name)
    for config in sorted(target.glob("*config.json")):
        if b'"auto_map"' in config.read_bytes():
            write_document(config, without_lost_code(read_document(config), target))
    for folder in _modules(source / _MODULES):
        shutil.copytree(source / folder, target / folder, ignore=_pickled_or_code, dirs_exist_ok=True)


def without_lost_code(document: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A config whose auto_map names code of other repositories, and files that are in the folder, alone."""
    named = document.get("auto_map")
    if not isinstance(named, dict):
        return document
    kept = {key: place for key, place in named.items() if _is_there(place, folder)}
    rest = {key: value for key, value in document.items() if key != "auto_map"}
    return rest | ({"auto_map": kept} if kept else {})


def _is_there(place: Any, folder: Path) -> bool:
    """Whether code can be found: `file.Class`, `owner/name--file.Class`, or a pair for slow and fast tokenizers."""
    places = [one for one in (place if isinstance(place, list) else [place]) if one is not None]
    return all("--" in str(one) or (folder / f"{str(one).partition('.')[0]}.py").is_file() for one in places)


def _pickled_or_code(folder: str, names: list[str]) -> list[str]:
    """Of a module's files those that stay behind; its weights come along as safetensors."""
    return [name for name in names if Path(name).suffix in _LEFT and not name.endswith(".safetensors")]


def _modules(path: Path) -> list[str]:
    """Folders of a sentence-transformers model, beside the transformer's own."""
    if not path.is_file():
        return []
    try:
        listed = parse_json(path.read_text(encoding="utf-8-sig"))
        folders = [str(entry["path"]) for entry in listed if entry["path"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} should list modules with a path each: {error}") from error
    present = {part.name for part in path.parent.iterdir() if part.is_dir()}
    for folder in folders:
        if folder not in present:
            raise InputError(f"{path} names module folder {folder[:80]!r}, which {path.parent} does not hold")
    return folders


@dataclass(frozen=True, kw_only=True)
class Edits:
    """What is written otherwise than a checkpoint has it; names are those in the checkpoint.

    tensor: what replaces a tensor, or None where it stays. info: dtype and shape of what is written, where shapes
    change. name: a tensor's new name, or None where it is left out. added: tensors that the checkpoint lacks.
    dtype: of all floating-point tensors; None keeps each one's own.
    """

    tensor: Callable[[str], Tensor | None] = lambda name: None
    info: Callable[[str], TensorInfo] | None = None
    name: Callable[[str], str | None] = lambda name: name
    added: Mapping[str, Tensor] = field(default_factory=dict)
    dtype: torch.dtype | None = None
    order: Callable[[str], int] | None = None


def write_pruned(checkpoint: Checkpoint, target: Path, edits: Edits) -> None:
    """Stream the checkpoint to `target` with these edits.

    One tensor is held at a time, so memory does not grow with the model. Raises NumericalError naming a tensor that
    holds NaN or inf.
    """
    listed = checkpoint.names() if edits.order is None else sorted(checkpoint.names(), key=edits.order)
    names = {name: edits.name(name) for name in listed}
    plan = {new: (edits.info or checkpoint.info)(name) for name, new in names.items() if new is not None}
    plan |= {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in edits.added.items()}
    plan = {name: (_written(kind, edits.dtype), shape) for name, (kind, shape) in plan.items()}

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name, new in names.items():
            if new is not None:
                changed = edits.tensor(name)
                yield new, checkpoint.read(name) if changed is None else changed
        yield from edits.added.items()

    ready = ((name, _finite(name, tensor).to(plan[name][0])) for name, tensor in tensors())
    write_checkpoint(target, plan, ready, shard_bytes=_SHARD_BYTES)


def with_dtype(document: dict[str, Any], dtype: torch.dtype | None) -> dict[str, Any]:
    """A config that says what weights are written as; None changes nothing."""
    if dtype is None:
        return document
    return document | {"torch_dtype" if "torch_dtype" in document else "dtype": str(dtype).removeprefix("torch.")}


def _written(kind: torch.dtype, wanted: torch.dtype | None) -> torch.dtype:
    return kind if wanted is None or not kind.is_floating_point else wanted


def _finite(name: str, tensor: Tensor) -> Tensor:
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise NumericalError(f"{name} holds NaN or inf: nothing is written; look at the checkpoint it comes from")
    return tensor

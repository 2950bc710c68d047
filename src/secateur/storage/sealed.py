"""Safetensors with a digest: a changed byte, or another file in its place, is refused by the file's name."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from secateur.core.errors import InputError
from secateur.core.files import new_file

__all__ = ["load_sealed", "save_sealed", "tensor_digest"]

_SEAL = "sha256"


def save_sealed(path: Path, tensors: Mapping[str, Tensor], extra: Any = None) -> None:
    """Write tensors, and plain data beside them, under the file's name once it is whole."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(extra)
    with new_file(path) as room:
        save_file(whole, room, {"extra": text, _SEAL: tensor_digest(whole, path.name + text)})


def load_sealed(path: Path, of: Path | None = None) -> tuple[dict[str, Tensor], Any]:
    """What `save_sealed` wrote under this name: tensors and plain data.

    of: the folder to remove when the file is damaged, its own unless named. Raises InputError then.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            file: Any = opened  # safetensors has no types
            # A copy: mapped pages would change with the file.
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}
            metadata = file.metadata() or {}
        # The name too: files can be swapped.
        if metadata[_SEAL] != tensor_digest(tensors, path.name + metadata["extra"]):
            raise ValueError("its content does not fit its digest")
        return tensors, json.loads(metadata["extra"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}): remove {of or path.parent} and start again") from error


def tensor_digest(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """SHA-256 of names, kinds, shapes and bytes of tensors, and of a text."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()

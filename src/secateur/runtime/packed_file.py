"""packed.safetensors: a model's tensors, those of 2:4 layers as values and places."""

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.core.files import new_file
from secateur.runtime.linear import SparseLinear
from secateur.runtime.two_four import TwoFour, is_two_four

__all__ = ["PACKED", "load_packed", "save_packed", "use_packed_"]

PACKED = "packed.safetensors"
_KIND = "secateur packed 2:4 1"
_VALUES, _PLACES = ".values", ".places"


def save_packed(path: Path, tensors: Iterable[tuple[str, Tensor]], layers: Collection[str]) -> int:
    """Write tensors; weights `[out, in]` of these layers that are 2:4 as `LAYER.values` and `LAYER.places`.

    Returns how many were packed. Raises InputError where none is.
    """
    kept: dict[str, Tensor] = {}
    rows: dict[str, int] = {}
    for name, tensor in tensors:
        layer, _, leaf = name.rpartition(".")
        if leaf == "weight" and layer in layers and is_two_four(tensor):
            packed = TwoFour.pack(tensor)
            kept[layer + _VALUES], kept[layer + _PLACES], rows[layer] = packed.values, packed.places, packed.rows
        else:
            kept[name] = tensor.contiguous()
    if not rows:
        raise InputError("no layer of the model is 2:4: prune it with --pattern 2:4 first")
    with new_file(path) as room:
        save_file(kept, room, {"kind": _KIND, "rows": json.dumps(rows)})
    return len(rows)


def load_packed(path: Path) -> tuple[dict[str, Tensor], dict[str, TwoFour]]:
    """What `save_packed` wrote: tensors by name, and packed weights by layer. Raises InputError on anything else."""
    try:
        with safe_open(path, framework="pt") as opened:
            file: Any = opened  # safetensors has no types
            about = file.metadata() or {}
            if about.get("kind") != _KIND:
                raise ValueError(f"its kind is {about.get('kind')!r}, not {_KIND!r}")
            rows: Mapping[str, Any] = json.loads(about["rows"])
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
        packed = {
            layer: _checked(layer, tensors.pop(layer + _VALUES), tensors.pop(layer + _PLACES), count)
            for layer, count in rows.items()
        }
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is no packed model of secateur: {error}") from error
    return tensors, packed


def _checked(layer: str, values: Tensor, places: Tensor, rows: Any) -> TwoFour:
    tiles, blocks = values.shape[:2]
    fits = values.shape[2:] == (16, 2) and places.shape == (tiles, blocks, 2)
    kinds = (values.dtype, places.dtype) == (torch.bfloat16, torch.int32)
    if not (fits and kinds and isinstance(rows, int) and 16 * (tiles - 1) < rows <= 16 * tiles):
        raise ValueError(f"{layer} has values {list(values.shape)} and places {list(places.shape)} for {rows} rows")
    return TwoFour(values, places, rows)


def use_packed_(model: nn.Module, packed: Mapping[str, TwoFour]) -> None:
    """Put packed layers where a model has linear ones of the same sizes. Raises InputError where it has none."""
    for name, own in packed.items():
        try:
            layer = model.get_submodule(name)
        except AttributeError:
            layer = None
        if type(layer) is not nn.Linear or tuple(layer.weight.shape) != (own.rows, own.columns):
            raise InputError(f"packed layer {name} of {own.rows} x {own.columns} is no linear layer of the model")
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, SparseLinear(own, layer.bias))

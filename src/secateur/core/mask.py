"""A named set of keep masks: apply, count, save as packed bits, load."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from secateur.core.errors import InputError
from secateur.core.files import new_file

__all__ = ["Masks", "pack", "save_packed", "unpack"]


def pack(keep: Tensor) -> Tensor:
    """Eight mask entries a byte, the first in the highest bit."""
    return torch.from_numpy(np.packbits(keep.cpu().numpy().reshape(-1)))  # [entries] -> [entries / 8]


def unpack(bits: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The mask that `pack` packed. Raises ValueError where the bits are not as many as the shape has."""
    count = math.prod(shape)
    if bits.dtype != torch.uint8 or min(shape, default=0) < 0 or bits.numel() != -(-count // 8):
        raise ValueError(f"{bits.numel()} bytes of {bits.dtype} are no mask of shape {list(shape)}")
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=count).astype(bool)).reshape(shape)


def save_packed(path: Path, bits: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Write packed masks and their shapes to a safetensors file."""
    with new_file(path) as room:
        save_file(dict(bits), room, {"shapes": json.dumps(shapes)})


@dataclass(frozen=True)
class Masks:
    """Keep masks by weight name."""

    keep: Mapping[str, Tensor]

    @property
    def sparsity(self) -> float:
        """The measured share removed over all masks."""
        total = sum(mask.numel() for mask in self.keep.values())
        return 1 - sum(int(mask.sum()) for mask in self.keep.values()) / total if total else 0.0

    def apply(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights with removed entries set to zero; names without a mask pass through."""
        return {
            # `where` and not a product: NaN * 0 is NaN, and a removed weight is 0 whatever it was.
            name: torch.where(self.keep[name].to(weight.device), weight, 0) if name in self.keep else weight
            for name, weight in weights.items()
        }

    def save(self, path: Path) -> None:
        """Write packed bits and shapes to a safetensors file."""
        shapes = {name: tuple(mask.shape) for name, mask in self.keep.items()}
        save_packed(path, {name: pack(mask) for name, mask in self.keep.items()}, shapes)

    @classmethod
    def load(cls, path: Path) -> "Masks":
        """Read what `save` wrote; raises InputError on anything else."""
        try:
            with safe_open(path, framework="pt") as opened:
                file: Any = opened  # safetensors has no types
                shapes = json.loads((file.metadata() or {})["shapes"])
                return cls({name: unpack(file.get_tensor(name), tuple(shapes[name])) for name in file.keys()})
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError, RecursionError) as error:
            raise InputError(f"{path} is not a mask file of secateur: {error}") from error

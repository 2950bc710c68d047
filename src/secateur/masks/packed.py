"""Files of n:m masks: a candidate's number in as few bits as it needs, and the digest of the weights it belongs to."""

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

from secateur.core.errors import InputError, SecateurError
from secateur.core.files import new_file
from secateur.core.mask import Masks
from secateur.core.pattern import NM, parse_pattern
from secateur.masks.candidates import Candidates

__all__ = ["MaskFile", "pack_numbers", "unpack_numbers"]

_KIND = "secateur n:m masks 1"


def pack_numbers(numbers: Tensor, bits: int) -> Tensor:
    """Numbers below 2^bits as a stream of bits, the highest first, `[ceil(count * bits / 8)]` bytes."""
    spread = np.unpackbits(numbers.cpu().reshape(-1, 1).to(torch.uint8).numpy(), axis=1)[:, 8 - bits :]
    return torch.from_numpy(np.packbits(spread.reshape(-1)))


def unpack_numbers(packed: Tensor, shape: tuple[int, int], bits: int) -> Tensor:
    """What `pack_numbers` packed, `[out, in / m]`. Raises ValueError where the bytes are not as many."""
    count = math.prod(shape)
    if packed.dtype != torch.uint8 or min(shape) < 0 or packed.numel() != -(-count * bits // 8):
        raise ValueError(f"{packed.numel()} bytes of {packed.dtype} are no {count} numbers of {bits} bits")
    spread = np.unpackbits(packed.numpy(), count=count * bits).reshape(count, bits)
    wide = np.packbits(np.pad(spread, ((0, 0), (8 - bits, 0))), axis=1)
    return torch.from_numpy(wide.reshape(shape))


@dataclass(frozen=True)
class MaskFile:
    """Masks of one pattern by layer name: each block's candidate, and digests of the dense weights they are of.

    numbers: `[out, in / m]` bytes by layer. base: SHA-256 of a layer's dense weight; empty where it is not known.
    """

    pattern: NM
    numbers: Mapping[str, Tensor]
    base: Mapping[str, str]

    @property
    def bits(self) -> int:
        """Bits of a block: 3 for 2:4."""
        return max(1, (len(Candidates(self.pattern)) - 1).bit_length())

    @classmethod
    def of(cls, masks: Masks, pattern: NM, base: Mapping[str, str]) -> "MaskFile":
        """From keep masks. Raises PatternError where a block does not keep n of m, naming the layer."""
        candidates = Candidates(pattern)
        numbers: dict[str, Tensor] = {}
        for name, keep in masks.keep.items():
            try:
                numbers[name] = candidates.numbers(keep).to(torch.uint8)
            except SecateurError as error:
                raise type(error)(f"{name}: {error}") from error
        return cls(pattern, numbers, dict(base))

    def masks(self) -> Masks:
        """Keep masks `[out, in]` by layer name."""
        candidates = Candidates(self.pattern)
        return Masks({name: candidates.keep(own.long()) for name, own in self.numbers.items()})

    def save(self, path: Path) -> None:
        """Write a safetensors file of packed bits."""
        about = {
            "kind": _KIND,
            "pattern": f"{self.pattern.n}:{self.pattern.m}",
            "shapes": json.dumps({name: list(own.shape) for name, own in self.numbers.items()}),
            "base": json.dumps(dict(self.base)),
        }
        with new_file(path) as room:
            save_file({name: pack_numbers(own, self.bits) for name, own in self.numbers.items()}, room, about)

    @classmethod
    def load(cls, path: Path) -> "MaskFile":
        """Read what `save` wrote; raises InputError on anything else."""
        if not path.is_file():
            raise InputError(f"{path} is not a packed mask file of secateur: it is no file")
        try:
            with safe_open(path, framework="pt") as opened:
                file: Any = opened  # safetensors has no types
                about = file.metadata() or {}
                if about.get("kind") != _KIND:
                    raise ValueError(f"its kind is {about.get('kind')!r}, not {_KIND!r}")
                pattern, shapes, base = (
                    parse_pattern(about["pattern"]),
                    json.loads(about["shapes"]),
                    json.loads(about["base"]),
                )
                if not isinstance(pattern, NM) or not isinstance(base, dict) or set(shapes) != set(file.keys()):
                    raise ValueError("its description does not fit its tensors")
                made = cls(pattern, {}, {str(name): str(digest) for name, digest in base.items()})
                count = len(Candidates(pattern))
                numbers: dict[str, Tensor] = {}
                for name, (rows, columns) in shapes.items():
                    numbers[name] = unpack_numbers(file.get_tensor(name), (int(rows), int(columns)), made.bits)
                    if numbers[name].numel() and int(numbers[name].max()) >= count:
                        raise ValueError(f"{name} names candidate {int(numbers[name].max())} of {count}")
        except (SafetensorError, SecateurError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{path} is not a packed mask file of secateur: {error}") from error
        return cls(pattern, numbers, made.base)

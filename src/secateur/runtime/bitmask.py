"""Bitmask: a weight with zeros anywhere as one bit a weight and the bfloat16 values that are kept, and its product."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.core.compiled import library
from secateur.core.shapes import Weight
from secateur.runtime.two_four import compiled_product

__all__ = ["PAYS_FROM", "Bitmask", "runs_here"]

SOURCE = Path(__file__).with_suffix(".cpp")
PAYS_FROM = 0.4  # share of zeros from which the product beat a dense bfloat16 loop, measured
_ROWS = 16  # of a tile


@cache
def runs_here(flags: tuple[str, ...] = ()) -> bool:
    """Whether compiled code for vectors of 8 or 16 numbers is there."""
    made: Any = library(SOURCE, flags)
    return made is not None and made.bitmask_kind() > 0


@dataclass(frozen=True)
class Bitmask:
    """Which weights are kept, and what they are.

    values: bfloat16, those of a tile of 16 rows after another, within it input by input, and 16 spare ones at the end.
    masks: `[tiles, in]` int16, a bit a row, the first lowest. starts: `[tiles]` int64, where a tile's values begin.
    rows: of the weight; the last tile may have more.
    """

    values: Tensor
    masks: Tensor
    starts: Tensor
    rows: int

    @classmethod
    def pack(cls, weight: Weight) -> "Bitmask":
        """Pack a weight `[out, in]`, rounded to bfloat16."""
        rows, columns = weight.shape
        tiles = -(-rows // _ROWS)
        room = torch.zeros(tiles * _ROWS, columns, dtype=torch.bfloat16)
        room[:rows] = weight.detach().to(device="cpu", dtype=torch.bfloat16)
        lanes = room.reshape(tiles, _ROWS, columns).transpose(1, 2)  # [tiles, in, 16]
        kept = lanes != 0
        bits = (kept.long() << torch.arange(_ROWS)).sum(dim=2)  # [tiles, in]
        counts = kept.sum(dim=(1, 2))
        values = torch.cat([lanes[kept], torch.zeros(_ROWS, dtype=torch.bfloat16)])
        signed = torch.where(bits >= 1 << 15, bits - (1 << 16), bits).to(torch.int16)
        return cls(values, signed, counts.cumsum(0) - counts, rows)

    @property
    def columns(self) -> int:
        """Inputs of the weight."""
        return self.masks.shape[1]

    @property
    def bytes(self) -> int:
        """What everything takes."""
        return self.values.nbytes + self.masks.nbytes + self.starts.nbytes

    def unpack(self) -> Weight:
        """The weight `[out, in]` in bfloat16."""
        kept = (self.masks.long()[:, :, None] >> torch.arange(_ROWS, device=self.masks.device)) & 1 == 1
        lanes = self.values.new_zeros(kept.shape)
        lanes[kept] = self.values[: len(self.values) - _ROWS]
        return lanes.transpose(1, 2).reshape(-1, self.columns)[: self.rows]

    def product(self, x: Tensor, flags: tuple[str, ...] = ()) -> Tensor:
        """`[vectors, out]` float32 of `[vectors, in]`, at most 8 vectors, by compiled code; sums are float32.

        Raises InputError on other sizes, which would be read out of bounds.
        """
        made: Any = library(SOURCE, flags)
        packed = (self.values, self.masks, self.starts)
        return compiled_product(made.bitmask_product, packed, x, (self.rows, self.columns))

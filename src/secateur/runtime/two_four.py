"""TwoFour: a weight of which 2 in every 4 inputs stay, packed into 9/16 of its bfloat16 bytes, and its product."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.core.compiled import library
from secateur.core.errors import InputError, PatternError
from secateur.core.shapes import Weight

__all__ = ["MOST_VECTORS", "TwoFour", "compiled_product", "dense_tiles", "is_two_four", "runs_here"]

SOURCE = Path(__file__).with_suffix(".cpp")
MOST_VECTORS = 8  # more at once are a matrix product, which dense code does better
_ROWS = 16  # of a tile
_SMALL = 1 << 18  # bytes below which a second thread costs more than it saves


def is_two_four(weight: Tensor) -> bool:
    """Whether at most 2 of every 4 consecutive inputs of a weight `[out, in]` are not zero."""
    if weight.dim() != 2 or weight.shape[1] % 4 or not weight.numel():
        return False
    return bool(((weight.reshape(len(weight), -1, 4) != 0).sum(dim=2) <= 2).all())


@cache
def runs_here(flags: tuple[str, ...] = ()) -> bool:
    """Whether compiled code for vectors of 8 or 16 numbers is there."""
    made: Any = library(SOURCE, flags)
    return made is not None and made.two_four_kind() > 0


@dataclass(frozen=True)
class TwoFour:
    """Kept values and their places.

    values: `[tiles of 16 rows, in / 4, 16, 2]` bfloat16. places: `[tiles of 16 rows, in / 4, 2]` int32, two bits a
    row: where in its four inputs the first and the second kept value stands. rows: of the weight; the last tile may
    have more.
    """

    values: Tensor
    places: Tensor
    rows: int

    @classmethod
    def pack(cls, weight: Weight) -> "TwoFour":
        """Pack a weight `[out, in]`, rounded to bfloat16. Raises PatternError where it is not 2:4."""
        if not is_two_four(weight):
            raise PatternError(
                f"a weight of {list(weight.shape)} is not 2:4: at most two of every four inputs of a row may stay"
            )
        rows, columns = weight.shape
        blocks = weight.to(torch.bfloat16).reshape(rows, -1, 4)
        # zeros fill up where fewer than two are kept; places in order
        order = torch.argsort((blocks == 0).to(torch.uint8), dim=2, stable=True)[:, :, :2].sort(dim=2).values
        tiles = -(-rows // _ROWS)
        room = (tiles * _ROWS, columns // 4, 2)
        values, places = torch.zeros(room, dtype=torch.bfloat16), torch.zeros(room, dtype=torch.int64)
        values[:rows], places[:rows] = blocks.gather(2, order).cpu(), order.cpu()
        values = values.reshape(tiles, _ROWS, -1, 2).transpose(1, 2).contiguous()  # [tiles, in / 4, 16, 2]
        shifts = 2 * torch.arange(_ROWS)[:, None, None]
        words = (places.reshape(tiles, _ROWS, -1, 2) << shifts).sum(dim=1)  # [tiles, in / 4, 2]
        return cls(values, torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32), rows)

    @property
    def columns(self) -> int:
        """Inputs of the weight."""
        return 4 * self.values.shape[1]

    @property
    def bytes(self) -> int:
        """What values and places take."""
        return self.values.nbytes + self.places.nbytes

    def unpack(self) -> Weight:
        """The weight `[out, in]` in bfloat16."""
        tiles, blocks = self.values.shape[:2]
        shifts = 2 * torch.arange(_ROWS, device=self.places.device)[:, None]
        places = (self.places[:, :, None, :].long() >> shifts) & 3  # [tiles, in / 4, 16, 2]
        dense = self.values.new_zeros(tiles, blocks, _ROWS, 4)
        # both places of a block may hold zeros only where nothing stays, so the order of writing does not matter
        dense.scatter_(3, places, self.values)
        return dense.permute(0, 2, 1, 3).reshape(tiles * _ROWS, -1)[: self.rows]

    def product(self, x: Tensor, flags: tuple[str, ...] = ()) -> Tensor:
        """`[vectors, out]` float32 of `[vectors, in]`, at most 8 vectors, by compiled code; sums are float32.

        Raises InputError on other sizes, which would be read out of bounds.
        """
        made: Any = library(SOURCE, flags)
        return compiled_product(made.two_four_product, (self.values, self.places), x, (self.rows, self.columns))


def compiled_product(call: Any, packed: Sequence[Tensor], x: Tensor, sizes: tuple[int, int]) -> Tensor:
    """`[vectors, out]` float32 by compiled code that takes packed tensors, the vectors `[vectors, in]` and room for it.

    packed: the bfloat16 values first. sizes: rows and columns of the weight. Raises InputError on other sizes of x,
    which would be read out of bounds.
    """
    rows, columns = sizes
    if x.dim() != 2 or x.shape[1] != columns or len(x) > MOST_VECTORS or packed[0].dtype != torch.bfloat16:
        raise InputError(
            f"a packed product takes up to {MOST_VECTORS} vectors of {columns} numbers, not {list(x.shape)}"
        )
    vectors = x.to(torch.float32).contiguous()
    out = torch.empty(len(vectors), rows)
    threads = torch.get_num_threads() if sum(each.nbytes for each in packed) > _SMALL else 1
    call(
        *(ctypes.c_void_p(each.data_ptr()) for each in (*packed, vectors, out)),
        *(ctypes.c_int64(rows), ctypes.c_int64(columns), len(vectors), threads),
    )
    return out


def dense_tiles(weight: Weight) -> Tensor:
    """`[tiles of 16 rows, in / 2, 16, 2]` bfloat16: a dense weight as the compiled dense loop reads it."""
    rows, columns = weight.shape
    tiles = -(-rows // _ROWS)
    room = torch.zeros(tiles * _ROWS, columns, dtype=torch.bfloat16)
    room[:rows] = weight.to(torch.bfloat16)
    return room.reshape(tiles, _ROWS, -1, 2).transpose(1, 2).contiguous()

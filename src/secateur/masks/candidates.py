"""Candidates: every way to keep n of m weights, as rows of a table, and masks as numbers of rows."""

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from secateur.core.errors import PatternError
from secateur.core.pattern import NM
from secateur.core.shapes import Keep

__all__ = ["MOST", "Candidates", "likeliest", "prior_logits"]

MOST = 70  # of 4:8: a logit for each of them is 8.75 numbers a weight


@dataclass(frozen=True)
class Candidates:
    """The C(m, n) masks of one block of an n:m pattern, in the order 1100, 1010, 1001, 0110, 0101, 0011.

    Raises PatternError where there are more than 70.
    """

    pattern: NM

    def __post_init__(self) -> None:
        """Refuse patterns with too many candidates."""
        if len(self) > MOST:
            raise PatternError(
                f"pattern {self.pattern.n}:{self.pattern.m} has {len(self):,} candidates a block: at most {MOST} are "
                "learned, as 2:4 (6), 1:4 (4) or 4:8 (70)"
            )

    def __len__(self) -> int:
        """How many there are."""
        return math.comb(self.pattern.m, self.pattern.n)

    @cached_property
    def table(self) -> Tensor:
        """`[candidates, m]`, 1 where a weight stays."""
        places = itertools.combinations(range(self.pattern.m), self.pattern.n)
        rows = [[float(place in kept) for place in range(self.pattern.m)] for kept in places]
        return torch.tensor(rows)

    def numbers(self, keep: Keep) -> Tensor:
        """Every block's candidate, `[out, in / m]`. Raises PatternError unless each block keeps n of m."""
        rows, columns = keep.shape
        m = self.pattern.m
        if columns % m:
            raise PatternError(f"a mask of shape {[rows, columns]} has no whole blocks of {m} inputs")
        blocks = keep.reshape(rows, -1, m).float()
        shared, numbers = (blocks @ self.table.T.to(keep.device)).max(dim=2)  # a candidate's own block shares all n
        right = (shared == self.pattern.n) & (blocks.sum(dim=2) == self.pattern.n)
        if wrong := int((~right).sum()):
            raise PatternError(f"{wrong:,} of {numbers.numel():,} blocks do not keep {self.pattern.n} of {m} inputs")
        return numbers

    def keep(self, numbers: Tensor) -> Keep:
        """The mask `[out, in]` of candidates `[out, in / m]`."""
        return self.table.to(numbers.device)[numbers].flatten(1).bool()


def prior_logits(candidates: Candidates, keep: Keep, *, strength: float, spread: float) -> Tensor:
    """Logits `[candidates, out, in / m]` that prefer a mask: how many kept weights a candidate shares with it.

    Formula: pi_i = strength spread (<M0, S_i> - n^2 / m), M0 a block of the prior's mask [Fang et al. 2024, prior]
    """
    rows = keep.shape[0]
    n, m = candidates.pattern.n, candidates.pattern.m
    shared = keep.reshape(rows, -1, m).float() @ candidates.table.T.to(keep.device)  # [out, in / m, candidates]
    return (strength * spread * (shared - n * n / m)).movedim(2, 0).contiguous()


def likeliest(logits: Tensor) -> Tensor:
    """The candidate of the highest logit, `[out, in / m]` bytes, of logits `[candidates, out, in / m]`.

    Of equal ones the first. `argmax` over the first dimension takes four times as long.
    """
    top = logits[0].clone()
    numbers = torch.zeros_like(top, dtype=torch.uint8)
    for number in range(1, len(logits)):
        numbers.masked_fill_(logits[number] > top, number)
        torch.maximum(top, logits[number], out=top)
    return numbers

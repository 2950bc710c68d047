"""Unstructured, PerRow, NM and Columns: scores and a ratio to a keep mask.

Every choice is an exact top-k with ties broken by index (the lowest index goes
first), so that the ratio is met to one unit even where many scores are equal.
"""

import re
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from secateur.core.errors import NumericalError, PatternError, RatioError
from secateur.core.protocols import Pattern
from secateur.core.shapes import Keep, ScoreMatrix

__all__ = ["NM", "Columns", "PerRow", "Unstructured", "check_ratio", "keep_highest", "parse_pattern"]


_SHORT = 8  # up to this many, comparing every pair is faster than a selection


def check_ratio(ratio: float) -> None:
    """Raise RatioError unless 0 <= ratio <= 1."""
    if not 0.0 <= ratio <= 1.0:
        raise RatioError(f"ratio {ratio} is outside 0..1: give the share to remove, such as 0.5")


def keep_highest(score: Float[Tensor, "rows columns"], removed: int) -> Bool[Tensor, "rows columns"]:
    """Drop exactly the `removed` lowest scores of every row; ties drop by index.

    Selection instead of a sort: O(columns) a row. Raises NumericalError on NaN.
    """
    if torch.isnan(score).any():
        raise NumericalError("scores hold NaN: check the weights and the calibration statistics")
    if removed <= 0:
        return torch.ones_like(score, dtype=torch.bool)
    if removed >= score.shape[1]:
        return torch.zeros_like(score, dtype=torch.bool)
    threshold = _kth_lowest(score, removed)  # [rows, 1]
    count = score.shape[1] - removed
    above = score > threshold
    if bool((above.sum(dim=1) == count).all()):  # no ties: most of the time
        return above
    below = score < threshold
    tied = score == threshold
    # Of the scores equal to the threshold only so many go, in order: `<=` would remove more than was asked for.
    still = removed - below.sum(dim=1, keepdim=True)
    return _exactly(~(below | (tied & (tied.cumsum(dim=1) <= still))), count)


def _exactly(keep: Bool[Tensor, "rows columns"], count: int) -> Bool[Tensor, "rows columns"]:
    """The mask, checked: a selection that keeps another number in some row is an error, never a result."""
    kept = keep.sum(dim=1)
    if not bool((kept == count).all()):
        raise NumericalError(
            f"the choice of weights keeps {int(kept.min())} to {int(kept.max())} of {keep.shape[1]}, not {count}: "
            "this is a fault of secateur, please report it"
        )
    return keep


def _kth_lowest(score: Float[Tensor, "rows columns"], k: int) -> Float[Tensor, "rows 1"]:
    if score.device.type != "cpu" or score.dtype not in (torch.float32, torch.float64):
        return score.kthvalue(k, dim=1, keepdim=True).values
    ordered = np.partition(score.detach().numpy(), k - 1, axis=1)  # vectorised, several times faster
    return torch.from_numpy(ordered[:, k - 1 : k])


def _share(ratio: float, units: int) -> int:
    return round(ratio * units)


@dataclass(frozen=True, kw_only=True)
class Unstructured:
    """Remove a share of a whole matrix, wherever the lowest scores are."""

    def check(self, shape: tuple[int, int], ratio: float) -> None:
        """Raise RatioError unless 0 <= ratio <= 1."""
        check_ratio(ratio)

    def keep(self, score: ScoreMatrix, ratio: float) -> Keep:
        """Keep the highest scores of the matrix."""
        return self.keep_window(score, ratio, 0)

    def window(self, width: int) -> int:
        """Any width will do."""
        return width

    def keep_window(self, score: ScoreMatrix, ratio: float, start: int) -> Keep:
        """Each window meets the ratio; cumulative rounding keeps the total exact."""
        self.check((score.shape[0], score.shape[1]), ratio)
        rows, width = score.shape
        # The difference of two rounded totals: rounding each window by itself would drift.
        removed = _share(ratio, rows * (start + width)) - _share(ratio, rows * start)
        return keep_highest(score.reshape(1, -1), removed).reshape(rows, width)


@dataclass(frozen=True, kw_only=True)
class PerRow:
    """Remove the same share of every output row (Wanda's comparison group)."""

    def check(self, shape: tuple[int, int], ratio: float) -> None:
        """Raise RatioError unless 0 <= ratio <= 1."""
        check_ratio(ratio)

    def keep(self, score: ScoreMatrix, ratio: float) -> Keep:
        """Keep the highest scores of each row."""
        return self.keep_window(score, ratio, 0)

    def window(self, width: int) -> int:
        """Any width will do."""
        return width

    def keep_window(self, score: ScoreMatrix, ratio: float, start: int) -> Keep:
        """Each window meets the ratio; cumulative rounding keeps the total exact."""
        self.check((score.shape[0], score.shape[1]), ratio)
        width = score.shape[1]
        return keep_highest(score, _share(ratio, start + width) - _share(ratio, start))


@dataclass(frozen=True, kw_only=True)
class NM:
    """Keep n of every m consecutive inputs, e.g. 2:4 keeps two of four."""

    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        """Refuse patterns that keep more than there is."""
        if not 0 < self.n <= self.m:
            raise PatternError(f"pattern {self.n}:{self.m} keeps {self.n} of {self.m}: need 0 < n <= m")

    def check(self, shape: tuple[int, int], ratio: float) -> None:
        """Raise PatternError on a width that is no multiple of m, RatioError on another ratio."""
        check_ratio(ratio)
        if shape[1] % self.m:
            raise PatternError(
                f"pattern {self.n}:{self.m} needs a width that is a multiple of {self.m}, got {shape[1]}"
            )
        fixed = 1 - self.n / self.m
        if abs(ratio - fixed) > 1e-6:
            raise RatioError(
                f"pattern {self.n}:{self.m} removes exactly {fixed:g}, but the ratio asked is {ratio:g}: "
                "leave the ratio out or choose another pattern"
            )

    def keep(self, score: ScoreMatrix, ratio: float) -> Keep:
        """Keep the n highest scores of every m consecutive inputs of a row."""
        self.check((score.shape[0], score.shape[1]), ratio)
        if torch.isnan(score).any():
            raise NumericalError("scores hold NaN: check the weights and the calibration statistics")
        groups = score.reshape(-1, self.m)  # [rows * width / m, m]
        if self.m > _SHORT:
            return keep_highest(groups, self.m - self.n).reshape(score.shape)
        rank = torch.zeros_like(groups, dtype=torch.int8)
        for other in range(self.m):
            pivot = groups[:, other : other + 1]
            # Comparing all pairs of a short group is vectorised, a sort of millions of groups is not.
            rank += pivot < groups
            rank[:, other + 1 :] += pivot == groups[:, other + 1 :]
        return _exactly(rank >= self.m - self.n, self.n).reshape(score.shape)

    def window(self, width: int) -> int:
        """A sweep chooses the mask of m columns at a time, on weights updated so far."""
        return self.m

    def keep_window(self, score: ScoreMatrix, ratio: float, start: int) -> Keep:
        """Windows are whole groups, so a window is judged alone."""
        return self.keep(score, ratio)


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Remove whole groups of `unit` consecutive columns by the sum of their scores.

    groups: units come in that many equal runs, and each run loses equally many.
    """

    unit: int = 1
    groups: int = 1

    def check(self, shape: tuple[int, int], ratio: float) -> None:
        """Raise PatternError on a width that is no multiple of the unit."""
        check_ratio(ratio)
        if self.unit < 1 or shape[1] % (self.unit * self.groups):
            runs = f" in {self.groups} equal runs" if self.groups > 1 else ""
            raise PatternError(f"columns in units of {self.unit}{runs} do not divide a width of {shape[1]}")

    def removed(self, width: int, ratio: float) -> int:
        """How many units of each run this ratio takes."""
        return _share(ratio, width // self.unit // self.groups)

    def keep(self, score: ScoreMatrix, ratio: float) -> Keep:
        """Keep the groups of columns with the highest summed score."""
        return self.keep_window(score, ratio, 0)

    def window(self, width: int) -> int:
        """Whole units only."""
        return max(width // self.unit, 1) * self.unit

    def keep_window(self, score: ScoreMatrix, ratio: float, start: int) -> Keep:
        """Each window meets the ratio; cumulative rounding keeps the total exact."""
        if self.groups > 1 and start:
            raise PatternError("columns in runs are chosen all at once, not window by window")
        self.check((score.shape[0], score.shape[1]), ratio)
        total = score.sum(dim=0).reshape(self.groups, -1, self.unit).sum(dim=2)  # [groups, units]
        first, count = start // self.unit, total.shape[1]
        removed = _share(ratio, first + count) - _share(ratio, first)
        return self.expand(keep_highest(total, removed).flatten(), score.shape[0])

    def expand(self, units: Bool[Tensor, " units"], rows: int) -> Keep:
        """The mask of a matrix of that many rows whose kept units are given."""
        return units.repeat_interleave(self.unit).expand(rows, -1).clone()  # a copy: an expanded mask shares memory

    def units(self, keep: Keep) -> tuple[int, ...]:
        """The kept units of a mask whose rows are all the same."""
        return tuple(keep[0].reshape(-1, self.unit)[:, 0].nonzero().flatten().tolist())


def parse_pattern(text: str) -> Pattern:
    """A pattern by its written name: unstructured, row, columns, columns:64, 2:4.

    Raises PatternError on anything else.
    """
    if text == "unstructured":
        return Unstructured()
    if text == "row":
        return PerRow()
    if match := re.fullmatch(r"columns(?::(\d{1,9}))?", text):
        return Columns(unit=int(match[1] or 1))
    if match := re.fullmatch(r"(\d{1,9}):(\d{1,9})", text):
        return NM(n=int(match[1]), m=int(match[2]))
    raise PatternError(
        f"pattern {text!r} is unknown: use unstructured, row, columns, columns:UNIT or n:m such as 2:4; "
        "a recipe also takes heads+channels, query-heads+channels, channels or blocks"
    )

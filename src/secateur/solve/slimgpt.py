"""Batched greedy removal of heads and ffn columns by OBS (SlimGPT)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from secateur.calibrate.statistic import Gram
from secateur.core.errors import InputError, PatternError
from secateur.core.linalg import cholesky, damped, layer_loss, refit_columns
from secateur.core.pattern import Columns
from secateur.core.protocols import Pattern, Solution, Statistic, Stats
from secateur.core.shapes import GramMatrix, Weight

__all__ = ["SlimGPT"]


@dataclass(frozen=True, kw_only=True)
class SlimGPT:
    """Remove the cheapest unit, repair what is kept, repeat.

    Formula: E_U = tr(W_U [H^-1]_UU^-1 W_U^T), W -= W_U [H^-1]_UU^-1 [H^-1]_U: [Ling et al. 2024 (SlimGPT), 3.2 and 3.3]

    damp: share of the Gram's mean diagonal added before inversion.
    first, last, decay: single columns go in groups of `decay` times those still to
    go, no more than first and no fewer than last; last 1 with decay 0 is exact
    greedy OBS. Wider units (heads) always go one at a time.
    reading: a wide unit's error in full, or read off its Cholesky diagonal as the
    paper does. precision: what the greedy search computes in.
    """

    damp: float = 0.01
    first: int = 1024
    last: int = 8
    decay: float = 0.25
    reading: Literal["exact", "diagonal"] = "exact"
    precision: Literal["float32", "float64"] = "float32"
    name: ClassVar[str] = "slimgpt"

    def __post_init__(self) -> None:
        """Refuse fields outside their range."""
        if not 0 < self.last <= self.first or not 0 <= self.decay <= 1 or self.damp < 0:
            raise InputError("slimgpt needs 0 < last <= first, decay in 0..1 and damp of at least 0")
        if self.reading not in ("exact", "diagonal") or self.precision not in ("float32", "float64"):
            raise InputError("slimgpt: reading is exact or diagonal, precision is float32 or float64")

    @property
    def needs(self) -> tuple[type[Statistic], ...]:
        """The Gram of the inputs."""
        return (Gram,)

    def solve(self, weight: Weight, stats: Stats, pattern: Pattern, ratio: float) -> Solution:
        """Remove whole units of columns. Raises PatternError when the pattern has none.

        The greedy search works on updated weights; what it keeps is then solved once
        more from the Gram, as updates one after the other gather rounding errors.
        """
        if not isinstance(pattern, Columns):
            raise PatternError(
                f"slimgpt removes whole columns and cannot make {pattern}: use columns:UNIT, heads+channels or channels"
            )
        pattern.check((weight.shape[0], weight.shape[1]), ratio)
        gram = stats[Gram].value
        quota = pattern.removed(weight.shape[1], ratio)
        if quota == 0:
            return Solution(weight, torch.ones_like(weight, dtype=torch.bool), 0.0)
        matrix = damped(gram, self.damp).to(getattr(torch, self.precision))  # [in, in]
        # An input that was zero in every token gives nothing: without its weight, its column costs nothing to remove.
        target = weight.to(matrix.dtype) * (gram.diagonal() > 0)
        kept, _, _ = self._greedy(target, matrix, pattern, quota)  # [units]
        keep = pattern.expand(kept, weight.shape[0])
        pruned = refit_columns(target, keep[0], matrix).to(weight.dtype)
        return Solution(pruned, keep, layer_loss(weight, pruned, gram))

    def path(self, weight: Weight, stats: Stats, pattern: Columns) -> list[tuple[int, float]]:
        """How many units are gone after every step of the greedy search, and the error by then, until none is left.

        The error is the mean over tokens of ||(W - W') x||^2, and what the damping counts of W - W' besides.
        """
        gram = stats[Gram].value
        matrix = damped(gram, self.damp).to(getattr(torch, self.precision))
        target = weight.to(matrix.dtype) * (gram.diagonal() > 0)
        path = self._greedy(target, matrix, pattern, weight.shape[1] // pattern.unit // pattern.groups)[2]
        return [(gone, paid / 2) for gone, paid in path]  # the Gram holds a factor of 2

    def _greedy(
        self, weight: Weight, gram: GramMatrix, pattern: Columns, quota: int
    ) -> tuple[Bool[Tensor, " units"], Weight, list[tuple[int, float]]]:
        """Kept units, repaired weight, and after every step how many are gone and the sum of all errors."""
        weight = weight.clone()
        inverse = torch.cholesky_inverse(cholesky(gram, "the Gram matrix"))  # H^-1, updated below as units go
        kept = torch.ones(weight.shape[1] // pattern.unit, dtype=torch.bool, device=weight.device)
        runs = kept.view(pattern.groups, -1)  # a view: marking a unit in `kept` marks it here too
        path: list[tuple[int, float]] = []
        paid = 0.0
        while left := int((quota - (~runs).sum(dim=1)).sum()):
            errors = self._errors(weight, inverse, pattern.unit).masked_fill(~kept, torch.inf)
            # Every run loses equally many: one that has lost its share offers no more units.
            full = (~runs).sum(dim=1) >= quota
            errors.view(pattern.groups, -1)[full] = torch.inf
            # Sorted, so that the order of removal does not depend on how topk sorts equal errors.
            units = errors.topk(self._batch(left, pattern), largest=False).indices.sort().values
            paid += _remove_(weight, inverse, units, pattern.unit)
            kept[units] = False
            path.append((int((~kept).sum()), paid))
        return kept, weight, path

    def _batch(self, left: int, pattern: Columns) -> int:
        if pattern.unit > 1 or pattern.groups > 1:
            return 1
        return min(left, self.first, max(self.last, int(self.decay * left)))

    def _errors(self, weight: Weight, inverse: GramMatrix, unit: int) -> Float[Tensor, " units"]:
        """What removing each unit alone would cost; a unit already gone costs nothing."""
        if unit == 1:
            # One column: the triangular solve below comes down to a division.
            return weight.square().sum(dim=0) / inverse.diagonal()
        count = len(inverse) // unit
        blocks = inverse.view(count, unit, count, unit).diagonal(dim1=0, dim2=2).permute(2, 0, 1)  # [units, unit, unit]
        gone = blocks.diagonal(dim1=1, dim2=2).sum(dim=1) == 0  # removal leaves zeros, which no Cholesky factor takes
        eye = torch.eye(unit, dtype=inverse.dtype, device=inverse.device)
        factors = cholesky(torch.where(gone[:, None, None], eye, blocks), "the inverse Gram of a head")
        columns = weight.T.reshape(count, unit, -1)  # [units, unit, out]
        if self.reading == "diagonal":
            return (columns.square().sum(dim=2) / factors.diagonal(dim1=1, dim2=2).square()).sum(dim=1)
        return torch.linalg.solve_triangular(factors, columns, upper=False).square().sum(dim=(1, 2))


def _remove_(weight: Weight, inverse: GramMatrix, units: Tensor, unit: int) -> float:
    """Take units out of weight and inverse Gram, repair the rest, and return the error.

    With L L^T = A_GG: W -= (L^-1 W_G^T)^T (L^-1 A_G:), A -= (L^-1 A_G:)^T (L^-1 A_G:),
    and the error is ||L^-1 W_G^T||^2.
    """
    columns = (units[:, None] * unit + torch.arange(unit, device=units.device)).flatten()  # [chosen * unit]
    rows = inverse[columns]  # A_G: [chosen * unit, in]
    factor = cholesky(rows[:, columns], "the inverse Gram of what is removed")
    reach = torch.linalg.solve_triangular(factor, rows, upper=False)
    error = torch.linalg.solve_triangular(factor, weight[:, columns].T, upper=False)  # [chosen * unit, out]
    weight.addmm_(error.T, reach, alpha=-1)
    inverse.addmm_(reach.T, reach, alpha=-1)
    # Exact zeros, where the update leaves rounding errors.
    weight[:, columns] = 0
    inverse[columns] = 0
    inverse[:, columns] = 0
    return float(error.square().sum())

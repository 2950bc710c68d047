"""Which experts stay: a score of every expert, and as many in every layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from secateur.core.errors import PatternError, RatioError
from secateur.core.protocols import Pattern, Solution, Statistic, Stats
from secateur.core.shapes import Weight
from secateur.experts.worth import Worth

__all__ = ["DropExperts"]


@dataclass(frozen=True, kw_only=True)
class DropExperts:
    """Remove the experts of the lowest score, equally many in every layer, without repair.

    by: reap weighs outputs by the router's gates, expert-norm takes outputs alone, frequency counts tokens.
    """

    by: Literal["reap", "expert-norm", "frequency"] = "reap"
    name: ClassVar[str] = "drop-experts"

    @property
    def needs(self) -> tuple[type[Statistic], ...]:
        """Nothing of single layers."""
        return ()

    def scores(self, worth: Worth) -> list[float]:
        """The score of every expert of one layer; 0 for one that no token reached.

        Formula: S_j = mean over tokens routed to j of g_j(x) ||f_j(x)||_2 [Lasby et al. 2026 (REAP), by reap]
        Formula: S_j = mean over tokens routed to j of ||f_j(x)||_2 [by expert-norm]
        Formula: S_j = tokens routed to j / tokens [by frequency]
        """
        totals = {"reap": worth.gated, "expert-norm": worth.norms, "frequency": worth.tokens.double()}[self.by]
        among = worth.tokens if self.by != "frequency" else worth.tokens.new_tensor(worth.seen)
        values: list[float] = (totals / among.clamp_min(1)).tolist()
        return values

    def keep(self, scores: Sequence[float], ratio: float, groups: int = 1) -> list[int]:
        """The numbers of the experts that stay, in order; every group of consecutive ones keeps equally many.

        Of equal experts the first goes. Raises RatioError when none would stay, or none would go.
        """
        size = len(scores) // groups
        gone = int(ratio * size + 1e-9)  # whole experts, and no more than was asked for
        among = f"{size} experts" if groups == 1 else f"the {size} experts of each of {groups} groups"
        if gone >= size:
            raise RatioError(f"ratio {ratio:g} would remove all of {among}: ask for less")
        if ratio > 0 and not gone:
            raise RatioError(f"ratio {ratio:g} removes none of {among}: ask for at least {1 / size:.3g}")
        kept: list[int] = []
        for start in range(0, len(scores), size):
            ordered = sorted(range(start, start + size), key=lambda number: (scores[number], number))
            kept += sorted(ordered[gone:])
        return kept

    def solve(self, weight: Weight, stats: Stats, pattern: Pattern, ratio: float) -> Solution:
        """A single matrix is not this method's business; always raises PatternError."""
        raise PatternError(f"{self.by} removes whole experts: use pattern experts")

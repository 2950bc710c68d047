"""Whole blocks go, those of least influence first (ShortGPT)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from secateur.core.errors import PatternError, RatioError
from secateur.core.protocols import Pattern, Solution, Statistic, Stats
from secateur.core.shapes import Weight

__all__ = ["ShortGPT"]


@dataclass(frozen=True, kw_only=True)
class ShortGPT:
    """Remove the blocks that change their input least, all at once, without repair.

    Formula: BI_i = 1 - E_t cos(x_{i,t}, x_{i+1,t}) [Men et al. 2024 (ShortGPT)]
    """

    name: ClassVar[str] = "shortgpt"

    @property
    def needs(self) -> tuple[type[Statistic], ...]:
        """Nothing of single layers."""
        return ()

    def keep(self, influence: Sequence[float], ratio: float) -> list[int]:
        """The numbers of the blocks that stay, in order; of equal blocks the first goes.

        Raises RatioError when none would stay, or none would go.
        """
        blocks = len(influence)
        gone = int(ratio * blocks + 1e-9)  # whole blocks, and no more than was asked for
        if gone >= blocks:
            raise RatioError(f"ratio {ratio:g} would remove all {blocks} blocks: ask for less")
        if ratio > 0 and not gone:
            raise RatioError(f"ratio {ratio:g} removes none of {blocks} blocks: ask for at least {1 / blocks:.3g}")
        # The number breaks ties, so that equal blocks go in the same order on every machine.
        lowest = sorted(range(len(influence)), key=lambda number: (influence[number], number))[:gone]
        return [number for number in range(len(influence)) if number not in lowest]

    def solve(self, weight: Weight, stats: Stats, pattern: Pattern, ratio: float) -> Solution:
        """A single matrix is not this method's business; always raises PatternError."""
        raise PatternError("shortgpt removes whole blocks: use pattern blocks")

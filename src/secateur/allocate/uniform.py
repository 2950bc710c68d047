"""The same ratio everywhere."""

from dataclasses import dataclass

from secateur.allocate.problem import Problem
from secateur.core.allocation import Allocation

__all__ = ["Uniform"]


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """The same share everywhere.

    Formula: r_b = r [a baseline]
    """

    def allocate(self, problem: Problem, ratio: float) -> Allocation:
        """The target for every block. Raises RatioError outside 0..1."""
        return Allocation(dict.fromkeys(problem.blocks, ratio))

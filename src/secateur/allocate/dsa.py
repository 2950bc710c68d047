"""Ratios from an expression of a block's scores, published or searched (DSA)."""

import math
from dataclasses import dataclass

from secateur.allocate.expression import PUBLISHED, parse
from secateur.allocate.problem import Problem
from secateur.allocate.spread import block_scores, spread
from secateur.calibrate.statistic import InputRMS
from secateur.core.allocation import Allocation
from secateur.core.errors import RatioError
from secateur.core.protocols import BlockView, Statistic

__all__ = ["DSA"]


@dataclass(frozen=True, kw_only=True)
class DSA:
    """An expression of a block's Wanda scores (Li et al. 2024).

    Formula: r_b = post(reduce(pre(|W_ij| ||X_j||_2))), spread over r -+ strength/100 [Li et al. 2024 (DSA), section 3]

    Ratios span strength / 100 on both sides of the target. The default is the published winner.
    """

    expression: str = PUBLISHED

    def __post_init__(self) -> None:
        """Refuse expressions that do not parse."""
        parse(self.expression)

    @property
    def needs(self) -> tuple[type[Statistic], ...]:
        """The norm of every input."""
        return (InputRMS,)

    def watch(self) -> None:
        """What passes between blocks is not looked at."""

    def read(self, view: BlockView) -> float:
        """The expression's number for the block."""
        program = parse(self.expression)
        return program.finish(program.reduced(block_scores(view)))

    def allocate(self, problem: Problem, ratio: float) -> Allocation:
        """Ratios by block, uniform where the expression is one number; RatioError where it has no finite value."""
        for name, value in problem.summaries.items():
            if not math.isfinite(value):
                raise RatioError(f"dsa: {self.expression} is {value} at {name}: use another expression")
        return spread(problem.summaries, problem.sizes, ratio, parse(self.expression).strength / 100)

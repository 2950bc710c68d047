"""Ratios that rise with the logarithm of depth (SlimGPT)."""

import math
from dataclasses import dataclass

from secateur.allocate.problem import Problem
from secateur.core.allocation import Allocation
from secateur.core.errors import InputError, RatioError
from secateur.core.pattern import check_ratio

__all__ = ["Incremental"]


@dataclass(frozen=True, kw_only=True)
class Incremental:
    """Ratios rise with the logarithm of depth (SlimGPT).

    Formula: r_i = r_0 + (r_last - r_0) ln(i + 1) / ln(n) [Ling et al. 2024 (SlimGPT), section 3.4]

    start: r_0 as a share of the target; r_last follows from the weighted mean.
    Raised where the last ratio would pass `ceiling`.
    """

    start: float = 0.35
    ceiling: float = 0.95

    def __post_init__(self) -> None:
        """Refuse a start above the mean."""
        if not 0 <= self.start <= 1 or not 0 < self.ceiling <= 1:
            raise InputError(f"incremental: start {self.start} and ceiling {self.ceiling} belong in 0..1")

    def allocate(self, problem: Problem, ratio: float) -> Allocation:
        """Ratios by block, in the order given; their weighted mean is the target exactly."""
        check_ratio(ratio)
        sizes = problem.sizes
        names, total = list(sizes), sum(sizes.values())
        if len(names) < 2:
            return Allocation(dict.fromkeys(names, ratio))
        shape = [math.log(i + 1) / math.log(len(names)) for i in range(len(names))]
        mean = sum(sizes[name] * part for name, part in zip(names, shape, strict=True)) / total
        first = self.start * ratio
        last = first + (ratio - first) / mean
        if last > self.ceiling:
            last = self.ceiling
            first = (ratio - last * mean) / (1 - mean)
        if first > last + 1e-12:
            raise RatioError(f"ratio {ratio:g} is above the ceiling {self.ceiling:g} of incremental: raise it")
        return Allocation({name: first + (last - first) * part for name, part in zip(names, shape, strict=True)})

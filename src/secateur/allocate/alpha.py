"""More goes where the spectrum's tail is light (AlphaPruning)."""

import math
from dataclasses import dataclass

import torch

from secateur.allocate.problem import Problem
from secateur.allocate.spread import scaled
from secateur.core.allocation import Allocation
from secateur.core.errors import InputError
from secateur.core.protocols import BlockView, Statistic
from secateur.core.shapes import Weight
from secateur.registry import check_name

__all__ = ["AlphaPruning", "tail_exponent"]

_BINS = 100  # of a spectrum's histogram


def tail_exponent(weight: Weight, tail: str = "peak") -> float:
    """Hill's estimate of the tail exponent of the eigenvalues l of W^T W; l falls.

    Formula: alpha = 1 + k / sum_{i<=k} ln(l_i / l_{k+1}) [Lu et al. 2024 (AlphaPruning)]

    tail: peak begins it where a histogram of log l, of 100 bins, is highest; half takes the upper half. inf where all
    eigenvalues are equal, or there is one: those have no tail.
    """
    # W W^T and W^T W have the same eigenvalues but for zeros: take the smaller.
    small = weight.double() if weight.shape[0] <= weight.shape[1] else weight.double().T
    values = torch.linalg.eigvalsh(small @ small.T).flip(0).clamp_min(1e-30)  # [least of in, out], largest first
    k = max(1, len(values) // 2)
    least = values[min(k, len(values) - 1)]
    logs = values[values > 1e-30].log10()
    if tail == "peak" and len(logs) and float(logs[0] - logs[-1]) > 0:
        counts = torch.histc(logs, _BINS, float(logs[-1]), float(logs[0]))
        # Of bins as high as each other the first, as an argmax gives it.
        edge = logs[-1] + int(counts.argmax()) * (logs[0] - logs[-1]) / _BINS
        k = max(1, int((logs > edge).sum()))
        least = values[min(k, len(values) - 1)]
    total = (values[:k] / least).log().sum()
    return 1 + k / float(total) if float(total) > 1e-9 else math.inf


@dataclass(frozen=True, kw_only=True)
class AlphaPruning:
    """From the tails of weight spectra (Lu et al. 2024).

    Formula: r_b = eta (1 - reach + 2 reach (alpha_b - min) / (max - min)) [Lu et al. 2024 (AlphaPruning)]

    eta scales all ratios to the target; what would be above 1 stays there. tail: peak or half, where the tail of a
    spectrum begins. Weights alone decide.
    """

    reach: float = 0.3
    tail: str = "peak"

    def __post_init__(self) -> None:
        """Refuse a reach outside its range."""
        if not 0 <= self.reach <= 1:
            raise InputError(f"alpha: reach {self.reach} should be in 0..1")
        check_name("tail", self.tail, ("peak", "half"))

    @property
    def needs(self) -> tuple[type[Statistic], ...]:
        """Nothing but the weights."""
        return ()

    def watch(self) -> None:
        """What passes between blocks is not looked at."""

    def read(self, view: BlockView) -> float:
        """The mean tail exponent of the block's matrices that have a tail; NaN where none has."""
        exponents = [tail_exponent(weight, self.tail) for weight in view.weights.values()]
        known = [exponent for exponent in exponents if math.isfinite(exponent)]
        return sum(known) / len(known) if known else math.nan

    def allocate(self, problem: Problem, ratio: float) -> Allocation:
        """Ratios by block that rise with the exponent."""
        known = [alpha for alpha in problem.summaries.values() if not math.isnan(alpha)]
        low, high = min(known, default=0.0), max(known, default=0.0)
        wide = high - low
        parts = {
            name: 1 - self.reach + 2 * self.reach * (alpha - low) / wide if wide > 0 and not math.isnan(alpha) else 1.0
            for name, alpha in problem.summaries.items()
        }
        return scaled(parts, problem.sizes, ratio)

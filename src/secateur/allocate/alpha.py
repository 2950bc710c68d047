"""More goes where the spectrum's tail is light (AlphaPruning)."""

from dataclasses import dataclass

import torch

from secateur.allocate.problem import Problem
from secateur.allocate.spread import spread
from secateur.core.allocation import Allocation
from secateur.core.errors import InputError
from secateur.core.protocols import BlockView, Statistic
from secateur.core.shapes import Weight

__all__ = ["AlphaPruning", "tail_exponent"]


def tail_exponent(weight: Weight) -> float:
    """Hill's estimate of the tail exponent of the eigenvalues l of W^T W, over their upper half; l falls.

    Formula: alpha = 1 + k / sum_{i<=k} ln(l_i / l_{k+1}), k half the rank's bound [Lu et al. 2024 (AlphaPruning)]
    """
    # W W^T and W^T W have the same eigenvalues but for zeros: take the smaller.
    small = weight.double() if weight.shape[0] <= weight.shape[1] else weight.double().T
    values = torch.linalg.eigvalsh(small @ small.T).flip(0).clamp_min(1e-30)  # [least of in, out], largest first
    k = max(1, len(values) // 2)
    tail = (values[:k] / values[min(k, len(values) - 1)]).log().sum()
    return 1 + k / max(float(tail), 1e-12)  # equal eigenvalues have no tail


@dataclass(frozen=True, kw_only=True)
class AlphaPruning:
    """A block's ratio rises linearly with the mean tail exponent of its matrices.

    Formula: r_b = r (1 - reach + 2 reach (alpha_b - min) / (max - min)) [Lu et al. 2024 (AlphaPruning)]

    Ratios run over target * (1 - reach .. 1 + reach) before they are balanced. Weights alone decide.
    """

    reach: float = 0.2

    def __post_init__(self) -> None:
        """Refuse a reach outside its range."""
        if not 0 <= self.reach <= 1:
            raise InputError(f"alpha: reach {self.reach} should be in 0..1")

    @property
    def needs(self) -> tuple[type[Statistic], ...]:
        """Nothing but the weights."""
        return ()

    def watch(self) -> None:
        """What passes between blocks is not looked at."""

    def read(self, view: BlockView) -> float:
        """The mean tail exponent of the block's matrices."""
        exponents = [tail_exponent(weight) for weight in view.weights.values()]
        return sum(exponents) / len(exponents)

    def allocate(self, problem: Problem, ratio: float) -> Allocation:
        """Ratios by block that rise with the exponent."""
        return spread(problem.summaries, problem.sizes, ratio, self.reach * ratio)

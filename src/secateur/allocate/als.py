"""Less stays where activations repeat what other layers say (ALS)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import linprog
from torch import Tensor

from secateur.allocate.problem import Problem
from secateur.calibrate.samples import BlockSamples, Samples
from secateur.core.allocation import Allocation
from secateur.core.errors import InputError, RatioError
from secateur.core.protocols import BlockView, Statistic

__all__ = ["ALS", "Features", "correlation", "fill", "importance", "orthogonality"]


class Features(NamedTuple):
    """Activations `[tokens, width]`, or their kernel `[tokens, tokens]` where that is smaller; size is ||Y^T Y||_F."""

    values: Float[Tensor, "tokens columns"]
    kernel: bool
    size: float

    @classmethod
    def of(cls, y: Float[Tensor, "tokens width"], *, centred: bool = False, rows: bool = True) -> "Features":
        """Optionally centred, rows scaled to length one; the cheaper side is kept."""
        y = y.double() - y.double().mean(dim=0) if centred else y.double()  # [tokens, width]
        if rows:
            y = y / y.norm(dim=1, keepdim=True).clamp_min(1e-30)
        wide = y.shape[1] > y.shape[0]
        values = y @ y.T if wide else y  # [tokens, tokens] or [tokens, width]
        # Scaled in float64, then stored in float32: the products below stay near 1.
        values = (values / values.norm().clamp_min(1e-30)).float()
        return cls(values, wide, float((values if wide else values.T @ values).norm()))

    def gram(self) -> Float[Tensor, "tokens tokens"]:
        """The kernel Y Y^T."""
        return self.values if self.kernel else self.values @ self.values.T


def orthogonality(a: Features, b: Features) -> float:
    """How much two layers say the same: 0 where independent, 1 where redundant (uncentred CKA).

    Formula: rho = ||B^T A||_F^2 / (||A^T A||_F ||B^T B||_F) [Li et al. 2024 (ALS), redundancy metric]
    """
    kernels = a.kernel or b.kernel
    # ||B^T A||^2 is tr(A A^T B B^T): either side gives it, whichever is held.
    both = (a.gram() * b.gram()).sum() if kernels else (b.values.T @ a.values).square().sum()
    return float(both) / max(a.size * b.size, 1e-30)


def correlation(features: Sequence[Features]) -> Float[np.ndarray, "count count"]:
    """Every pair's orthogonality; symmetric, ones on the diagonal."""
    matrix = np.eye(len(features))
    for i, feature in enumerate(features):
        for j in range(i):
            matrix[i, j] = matrix[j, i] = orthogonality(feature, features[j])
    return matrix


def importance(matrix: Float[np.ndarray, "count count"]) -> Float[np.ndarray, " count"]:
    """Weights of layers from their correlations, rho the sum over the others and mu the row mean; the largest is 1.

    Formula: omega_i = exp(-rho_i / mu_i) [Li et al. 2024 (ALS), importance factor]

    rho / mu = n - n / s with s the row sum, so only exp(n / s) differs; it is shifted to stay finite.
    """
    sums = matrix.sum(axis=1)
    exponent = len(matrix) / sums
    weights: Float[np.ndarray, " count"] = np.exp(exponent - exponent.max())  # overflows without the shift
    return weights


def fill(
    worth: Sequence[float], sizes: Sequence[int], density: float, bounds: tuple[float, float], grid: float
) -> list[float]:
    """Densities that maximise sum worth_i d_i under the budget density * sum sizes (HiGHS), on a grid.

    Rounded down to the grid; what is left over goes to the best worth per weight with room.
    Raises RatioError naming the feasible interval.
    """
    low, high = bounds
    total = float(sum(sizes))
    if not low - 1e-12 <= density <= high + 1e-12:
        raise RatioError(
            f"ratio {1 - density:g} cannot be met within als bounds {1 - high:g}..{1 - low:g}: ask for one inside"
        )
    # Shares of the whole, as HiGHS's tolerances are absolute.
    share = np.asarray(sizes, dtype=float) / total
    solution = linprog(
        -np.asarray(worth),
        A_ub=share[None],
        b_ub=[min(density, high)],
        bounds=[(low, high)] * len(share),
        method="highs",
    )
    steps = low + np.floor((solution.x - low) / grid + 1e-9) * grid  # 1e-9: a density on the grid stays on it
    left = density - float(share @ steps)
    for i in np.argsort(-np.asarray(worth) / share, kind="stable"):
        more = min(high - steps[i], left / share[i])
        steps[i] += max(more, 0.0)
        left -= max(more, 0.0) * share[i]
    return [float(step) for step in steps]


@dataclass(frozen=True, kw_only=True)
class ALS:
    """From activations that repeat other layers' (Li et al. 2024).

    Retained densities are maximised, weighted by the mean importance of this block and all later ones.
    within: ratios of the matrices of a block too, from their outputs. source: what enters a block (the
    paper's), leaves it, or is added by it: in a residual stream the first two hold all earlier blocks'
    outputs and hardly differ. reach: ratios stay this near the target; None is 0.05, less where that
    would empty or fill a block. The paper's bounds are 0.3 to 0.7.
    smooth: the quadratic program's closed form S + (worth - mean) / 16 instead of the linear one.
    """

    within: bool = False
    source: Literal["input", "output", "update"] = "update"
    centred: bool = False
    rows: bool = True
    drop_first: bool = False
    reach: float | None = None
    grid: float = 0.005
    smooth: bool = False
    tokens: int = 2048

    def __post_init__(self) -> None:
        """Refuse fields outside their range."""
        if self.source not in ("input", "output", "update") or self.grid <= 0 or self.tokens < 2:
            raise InputError("als: source is input, output or update, grid above 0, tokens at least 2")
        if self.reach is not None and not 0 <= self.reach <= 1:
            raise InputError(f"als: reach {self.reach} should be in 0..1")

    @property
    def needs(self) -> tuple[type[Statistic], ...]:
        """Sampled inputs of every layer, for ratios within blocks."""
        return (Samples,) if self.within else ()

    def watch(self) -> BlockSamples:
        """The same tokens at every block."""
        return BlockSamples(Samples(self.tokens), self.source, self.drop_first)

    def read(self, view: BlockView) -> tuple[Features, dict[str, float]]:
        """The block's features, and the worth of each of its matrices by their outputs."""
        features = Features.of(view.watched, centred=self.centred, rows=self.rows)
        if not self.within:
            return features, {}
        # [tokens, in] @ [in, out]
        outputs = [view.stats[name][Samples].value @ weight.T for name, weight in view.weights.items()]
        inner = [Features.of(output, centred=self.centred, rows=self.rows) for output in outputs]
        return features, dict(zip(view.weights, self._worth(correlation(inner)), strict=True))

    def correlations(self, problem: Problem) -> Float[np.ndarray, "count count"]:
        """Every pair of blocks' orthogonality, in forward order."""
        return correlation([features for features, _ in problem.summaries.values()])

    def allocate(self, problem: Problem, ratio: float) -> Allocation:
        """Ratios by block, or by layer when `within`. Raises RatioError outside the bounds."""
        names, sizes = list(problem.blocks), problem.sizes
        worth = self._worth(self.correlations(problem))
        blocks = self._ratios(dict(zip(names, worth, strict=True)), sizes, ratio, ratio)
        if not self.within:
            return Allocation(blocks)
        ratios: dict[str, float] = {}
        for name in names:
            ratios |= self._ratios(problem.summaries[name][1], problem.blocks[name], blocks[name], ratio)
        return Allocation(ratios)

    def _worth(self, matrix: Float[np.ndarray, "count count"]) -> list[float]:
        own = importance(matrix)
        return [float(own[i:].mean()) for i in range(len(own))]  # this block and all after it

    def _ratios(
        self, worth: Mapping[str, float], sizes: Mapping[str, int], ratio: float, target: float
    ) -> dict[str, float]:
        """Ratios of mean `ratio`, within reach of the whole model's target."""
        reach = min(0.05, target / 2, 1 - target) if self.reach is None else self.reach
        low, high = max(0.0, target - reach), min(1.0, target + reach)
        if self.smooth:
            mean = math.fsum(worth.values()) / len(worth)
            parts = Allocation({name: min(max(ratio - (value - mean) / 16, 0), 1) for name, value in worth.items()})
            return dict(parts.balanced(sizes, ratio, low, high).ratios)
        counts = [sizes[name] for name in worth]
        densities = fill(list(worth.values()), counts, 1 - ratio, (1 - high, 1 - low), self.grid)
        return {name: 1 - density for name, density in zip(worth, densities, strict=True)}

"""The least expected loss when whole units go and the rest is repaired: one ratio a block, exactly."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from secateur.allocate.knapsack import MEASURED, Knapsack, choose, expected_loss
from secateur.allocate.problem import Problem
from secateur.calibrate.sensitivity import Sensitivity
from secateur.calibrate.statistic import Gram
from secateur.core.allocation import Allocation
from secateur.core.errors import InputError
from secateur.core.linalg import damped, inverse_factor, refit_columns
from secateur.core.pattern import keep_highest
from secateur.core.protocols import BlockView, Statistic
from secateur.core.shapes import GramMatrix, Weight

__all__ = ["UnitKnapsack", "column_losses"]


def column_losses(
    weight: Weight, gram: GramMatrix, sensitivity: Float[Tensor, " out"], ratios: Sequence[float], damp: float = 0.01
) -> list[float]:
    """Expected growth of the loss, nats a token, when columns of least OBS error go and the rest is refitted.

    Formula: E_j = ||W_:j||_2^2 / [H^-1]_jj [Hassibi & Stork 1993 (OBS)]
    """
    matrix = damped(gram, damp)
    inverse = inverse_factor(matrix).square().sum(dim=0)  # the diagonal of H^-1 = U^T U
    errors = weight.square().sum(dim=0) / inverse * (gram.diagonal() > 0)  # dead columns go first
    losses: list[float] = []
    for ratio in ratios:
        kept = keep_highest(errors[None], round(ratio * weight.shape[1]))[0]
        change = weight - refit_columns(weight, kept, matrix)  # [out, in]
        losses.append(expected_loss(change, gram, sensitivity))
    return losses


@dataclass(frozen=True, kw_only=True)
class UnitKnapsack:
    """Ours: the knapsack for heads and channels.

    reach and grid as in `Knapsack`. sites: "all", or "ffn" where heads stay (pattern channels) and the ffn's
    channels make up for them. Heads count column by column here, though they go whole.
    """

    reach: float = 0.25
    grid: float = 0.05
    sites: str = "all"

    def __post_init__(self) -> None:
        """Refuse fields outside their range."""
        Knapsack(reach=self.reach, grid=self.grid)
        if self.sites not in ("all", "ffn"):
            raise InputError(f"unit-knapsack: sites {self.sites!r} is all or ffn")

    @property
    def needs(self) -> tuple[type[Statistic], ...]:
        """The Gram of the inputs, and how much the loss notices the outputs."""
        return (Gram, Sensitivity)

    def watch(self) -> None:
        """What passes between blocks is not looked at."""

    def read(self, view: BlockView) -> list[float]:
        """The block's expected loss at every measured ratio of its weights."""
        names = list(view.weights)
        ends = view.ends if self.sites == "all" else view.ends[-1:]
        start = 0 if self.sites == "all" else names.index(view.ends[0]) + 1  # behind the attention's last matrix
        sizes = [view.weights[name].numel() for name in names]
        share = sum(sizes[start:]) / sum(sizes)
        within = [ratio for ratio in MEASURED if ratio < share]
        ratios = [*(ratio / share for ratio in within), 1.0]
        parts = [
            column_losses(view.weights[name], view.stats[name][Gram].value, view.stats[name][Sensitivity].value, ratios)
            for name in ends
        ]
        *losses, whole = (sum(losses) for losses in zip(*parts, strict=True))
        before, slope = (0.0, *within)[-1], whole - (0.0, *losses)[-1]
        end = MEASURED[len(within)]  # the line through the loss of losing all that can go, to the next measured ratio
        return [*losses, whole + slope * (end - share) / (share - before)]

    def allocate(self, problem: Problem, ratio: float) -> Allocation:
        """Ratios by block. Raises RatioError where no choice meets the target."""
        return choose(problem.summaries, problem.sizes, ratio, self.reach, self.grid)

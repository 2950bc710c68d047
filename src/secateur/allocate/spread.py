"""Scores of blocks to ratios around the target, linearly."""

from collections.abc import Mapping

from torch import Tensor

from secateur.core.allocation import Allocation
from secateur.core.protocols import BlockView
from secateur.score.wanda import Wanda

__all__ = ["block_scores", "spread"]


def block_scores(view: BlockView) -> list[Tensor]:
    """Wanda's scores of every weight of a block, by matrix."""
    return [Wanda()(weight, view.stats[name]) for name, weight in view.weights.items()]


def spread(scores: Mapping[str, float], sizes: Mapping[str, int], ratio: float, half: float) -> Allocation:
    """Ratios that rise linearly with the scores over 2 * half, around the target; uniform where all are equal.

    What would leave 0..1 is clipped, and the weighted mean is the target.
    """
    low, high = min(scores.values()), max(scores.values())
    # Equal scores have no direction: every block then gets the target.
    reach = high - low
    parts = {name: 2 * half * (score - low) / reach if reach > 0 else 0.0 for name, score in scores.items()}
    return Allocation(parts).balanced(sizes, ratio)

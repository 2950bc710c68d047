"""Scores of blocks to ratios around the target, linearly."""

from collections.abc import Mapping

from torch import Tensor

from secateur.core.allocation import Allocation
from secateur.core.errors import RatioError
from secateur.core.pattern import check_ratio
from secateur.core.protocols import BlockView
from secateur.score.wanda import Wanda

__all__ = ["block_scores", "scaled", "spread"]


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


def scaled(parts: Mapping[str, float], sizes: Mapping[str, int], ratio: float) -> Allocation:
    """All parts, none below zero, times one number, so that their weighted mean is the ratio; none exceeds 1.

    Raises RatioError where parts of zero leave it out of reach.
    """
    check_ratio(ratio)
    positive = [part for part in parts.values() if part > 0]
    most = Allocation({name: float(part > 0) for name, part in parts.items()})
    if ratio > most.mean(sizes) + 1e-12:
        raise RatioError(f"ratio {ratio:g} is out of reach: blocks of {most.mean(sizes):.3g} of the weights lose any")
    low, high = 0.0, 1 / min(positive) if positive else 0.0
    for _ in range(100):  # the mean is a bent line of the factor
        middle = (low + high) / 2
        found = Allocation({name: min(1.0, middle * part) for name, part in parts.items()})
        low, high = (low, middle) if found.mean(sizes) >= ratio else (middle, high)
    return Allocation({name: min(1.0, high * part) for name, part in parts.items()})

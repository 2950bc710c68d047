"""answer(forest, prices, acquire): one example through all trees, buying features when nodes ask."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from secateur.forest.tree_arrays import Forest
from secateur.forest.usage import Prices

__all__ = ["Bill", "answer"]


class Bill(NamedTuple):
    """The features asked for, in that order, and what they cost together."""

    features: list[int]
    cost: float


def answer(
    forest: Forest,
    prices: Prices,
    acquire: Callable[[int], Mapping[int, float] | float],
    known: dict[int, float] | None = None,
) -> tuple[Float[np.ndarray, " outputs"], Bill]:
    """Mean of the leaves' values, and the bill; whatever is acquired is put into `known`."""
    known = {} if known is None else known
    asked: list[int] = []
    bought: set[int] = set()
    steps = forest.steps

    def value(feature: int) -> float:
        if feature not in known:
            found = acquire(feature)
            known.update(found if isinstance(found, Mapping) else {feature: found})
            asked.append(feature)
            bought.add(int(prices.group[feature]))
        return float(np.float32(known[feature])) if forest.single else float(known[feature])

    total = np.zeros(forest.value.shape[1])
    for root in forest.roots:
        node = int(root)
        while steps.feature[node] >= 0:
            seen = value(int(steps.feature[node]))
            goes_left = steps.missing_left[node] if np.isnan(seen) else seen <= steps.threshold[node]
            node = int((steps.left if goes_left else steps.right)[node])
        total += forest.value[node]
    return total / len(forest.roots), Bill(asked, float(prices.cost[sorted(bought)].sum()))

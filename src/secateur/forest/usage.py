"""Which features examples need and what they cost; and one example that buys them when nodes ask."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from secateur.core.compiled import compiled
from secateur.core.errors import InputError
from secateur.forest.tree_arrays import Forest

__all__ = ["Bill", "Prices", "answer", "read_prices", "used_features"]


@dataclass(frozen=True, eq=False)
class Prices:
    """What every group of features costs, and which group a feature is in."""

    group: Int[np.ndarray, " features"]
    cost: Float[np.ndarray, " groups"]

    def bill(self, used: Bool[np.ndarray, "examples features"]) -> Float[np.ndarray, " examples"]:
        """What every example pays for the features it uses."""
        bought = np.zeros((len(used), len(self.cost)), bool)
        np.logical_or.at(bought.T, self.group, used.T)
        return bought @ self.cost


def read_prices(features: int, costs: Any = None, groups: Any = None) -> Prices:
    """Prices of `features` features: one each (default 1), or one of each group named in `groups`.

    costs: by feature, or with groups by group in the order of their sorted names, or a
    mapping of group names. Raises InputError on the wrong number, and on costs below 0.
    """
    if groups is None:
        names, group = np.arange(features), np.arange(features)
    else:
        if len(groups) != features:
            raise InputError(f"feature_groups names {len(groups)} features, and there are {features}")
        names, group = np.unique(np.asarray(groups), return_inverse=True)
    if isinstance(costs, dict):
        missing = [name for name in names.tolist() if name not in costs]
        if missing:
            raise InputError(f"feature_costs lacks {missing[0]!r}, one of {len(missing)} missing")
        costs = [costs[name] for name in names.tolist()]
    cost = np.ones(len(names)) if costs is None else np.asarray(costs, dtype=float)
    if cost.shape != (len(names),):
        raise InputError(f"feature_costs should hold {len(names)} numbers, one for each to buy, got {cost.shape}")
    if not np.isfinite(cost).all() or (cost < 0).any():
        raise InputError("feature_costs should be finite and at least 0")
    return Prices(group, cost)


def used_features(forest: Forest, x: Float[np.ndarray, "examples features"]) -> Bool[np.ndarray, "examples features"]:
    """Whether any tree asks an example for a feature."""
    return _used(forest.leaves(x), forest.parent, forest.steps.feature, x.shape[1])


@compiled
def _used(leaves: Any, parent: Any, feature: Any, features: int) -> Any:  # pragma: no cover - compiled
    used = np.zeros((leaves.shape[1], features), np.bool_)
    for tree in range(leaves.shape[0]):
        for row in range(leaves.shape[1]):
            node = parent[leaves[tree, row]]
            while node >= 0:
                used[row, feature[node]] = True
                node = parent[node]
    return used


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

"""PrimalDual: the paper's dual ascent; trees are solved alone, each exactly, under shares of the cost.

Every tree pays a share of what a pair costs; the shares of a pair add up to its cost. For
fixed shares each tree is pruned bottom-up. A share rises where its tree asks for the
pair and falls where it does not (Nan, Wang, Saligrama 2016, algorithm 1): a step along a
subgradient, then the nearest point whose shares are at least 0 and add up.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from secateur.core.compiled import compiled
from secateur.trees.integer_program import IntegerProgram

__all__ = ["PrimalDual", "Solved"]


class Solved(NamedTuple):
    """Splits to keep, their objective, and a bound no choice is below."""

    keep: Bool[np.ndarray, " splits"]
    objective: float
    bound: float

    @property
    def gap(self) -> float:
        """How far from the optimum the objective can be, as a share of it."""
        return (self.objective - self.bound) / (abs(self.objective) or 1.0)


@dataclass(frozen=True, kw_only=True)
class PrimalDual:
    """Stops at a relative gap, or after `rounds`.

    Formula: max_b (E - sum_t max_Y sum_{u in Y} (g_u - b_u)) / (N T), sum_t b_pt = lambda T c_p [Nan et al. 2016]
    Formula: b += s (best - bound) N T / ||d||^2 d, d_pt = y_pt - mean_t y_pt, projected [Polyak; Duchi et al. 2008]
    """

    gap: float = 1e-6
    rounds: int = 500

    def solve(self, program: IntegerProgram, trade_off: float) -> Solved:
        """The best splits met on the way, and the best bound."""
        scale = program.weight * program.trees
        price = program.prices(trade_off)
        splits = len(program.gain)
        owner = np.repeat(np.arange(splits), np.diff(program.start))
        back = np.argsort(program.pair, kind="stable")
        back_start = np.concatenate([[0], np.cumsum(np.bincount(program.pair, minlength=len(price)))])
        asking = np.maximum(np.diff(back_start), 1)
        share = (price / asking)[program.pair]  # a pair's cost starts shared out evenly
        best = Solved(np.zeros(splits, bool), program.base / scale, -np.inf)
        factor, stale = 1.0, 0
        for _ in range(self.rounds):
            charge = np.bincount(owner, share, minlength=splits)  # [splits]
            keep, saved = _prune_trees(program.parent, program.gain - charge)
            bound = (program.base - saved) / scale
            objective = program.objective(keep, trade_off)
            stale = 0 if bound > best.bound else stale + 1
            if objective < best.objective:
                best = best._replace(keep=keep, objective=objective)
            best = best._replace(bound=max(best.bound, bound))
            asked = keep[owner].astype(float)
            slope = asked - (np.bincount(program.pair, asked, len(price)) / asking)[program.pair]
            size = float(slope @ slope)
            if best.gap <= self.gap or size == 0:
                break
            if stale > 10:
                factor, stale = factor / 2, 0  # Polyak's step is too long while the best objective is above the optimum
            share = _project(share + factor * (best.objective - bound) * scale / size * slope, back_start, back, price)
        return best


@compiled
def _prune_trees(parent: Any, net: Any) -> Any:  # pragma: no cover - compiled
    """Splits worth keeping when each earns `net`, and what they earn together; children stand after parents."""
    worth = net.copy()
    saved = 0.0
    for split in range(len(parent) - 1, -1, -1):
        if worth[split] > 0:
            if parent[split] >= 0:
                worth[parent[split]] += worth[split]  # children stand after parents, so this goes bottom-up
            else:
                saved += worth[split]
    keep = np.zeros(len(parent), np.bool_)
    for split in range(len(parent)):
        keep[split] = worth[split] > 0 and (parent[split] < 0 or keep[parent[split]])
    return keep, saved


@compiled
def _project(share: Any, back_start: Any, back: Any, price: Any) -> Any:  # pragma: no cover - compiled
    """The nearest shares that are at least 0 and add up to every pair's price (Duchi et al. 2008)."""
    out = np.empty_like(share)
    for pair in range(len(price)):
        first, last = back_start[pair], back_start[pair + 1]
        if last - first == 1:  # one tree asks: it bears the whole price
            out[back[first]] = price[pair]
            continue
        values = np.sort(share[back[first:last]])[::-1]
        total, level = 0.0, values[0] - price[pair]
        for rank in range(len(values)):
            total += values[rank]
            if values[rank] - (total - price[pair]) / (rank + 1) > 0:
                level = (total - price[pair]) / (rank + 1)
        for place in range(first, last):
            out[back[place]] = max(share[back[place]] - level, 0.0)
    return out

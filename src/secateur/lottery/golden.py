"""Any number in [0, 1] as a sum of at most one value from each golden interval."""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from secateur.core.errors import InputError

__all__ = ["GOLDEN", "Decomposition", "check_base", "decompose", "interval_count"]

GOLDEN = (1 + math.sqrt(5)) / 2
_ROUNDING = 1e-9  # an accuracy that is a power of the base needs no interval more for its last bit


class Decomposition(NamedTuple):
    """Which values are taken `[count, ...]`, and what is left of every weight."""

    taken: Bool[np.ndarray, "count ..."]
    rest: Float[np.ndarray, "..."]


def check_base(base: float) -> None:
    """Raise InputError outside (1, golden ratio], where the greedy rule can leave more than its last interval."""
    if not 1 < base <= GOLDEN:
        raise InputError(f"base {base} is outside (1, {GOLDEN:.6f}]: above the golden ratio the greedy rule fails")


def interval_count(accuracy: float, base: float = GOLDEN) -> int:
    """K, the least number with base^-K <= accuracy; the intervals are (base^-(k+1), base^-k] for k = 1..K.

    Formula: K = ceil(ln(1 / a) / ln g) [Orseau et al. 2020; any base g up to the golden ratio]

    Raises InputError for a base that fails and an accuracy that is not a positive number.
    """
    check_base(base)
    if not 0 < accuracy < math.inf:
        raise InputError(f"accuracy {accuracy} should be a positive number")
    return max(0, math.ceil(-math.log(accuracy) / math.log(base) - _ROUNDING))


def decompose(weights: Float[np.ndarray, "..."], values: Any) -> Decomposition:
    """The greedy rule for all weights at once: take value k where it does not exceed what is left.

    Formula: z_k = [b_k <= w - sum_{j<k} z_j b_j], then 0 <= w - sum_k z_k b_k <= g^-K [Orseau et al. 2020]

    values: `[count, ...]`, each broadcast to the weights. With one value in each interval and weights in [0, 1],
    0 <= rest <= base^-count: before step k the rest is at most base^-(k-1); taken, it is at most
    base^-(k-1) - base^-(k+1), which is base^-k or less just when base^2 - base - 1 <= 0; not taken, it is below the
    value, which is base^-k or less.
    """
    rest = np.array(weights, dtype=np.float64)  # a copy, reduced in place
    taken = np.empty((len(values), *rest.shape), dtype=bool)
    for step, value in enumerate(values):  # K steps of array operations, all weights at once
        np.less_equal(value, rest, out=taken[step])
        np.subtract(rest, value, out=rest, where=taken[step])
    return Decomposition(taken, rest)

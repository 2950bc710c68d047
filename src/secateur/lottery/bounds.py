"""How many random neurons are enough: this library's bounds, computed from tails and not from constants."""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from scipy.stats import binom

__all__ = ["batch_size", "interval_chances", "least", "malach_size", "once_size", "pool_size"]

_NEVER = 1e-9  # waits less likely than that are summed in closed form


def interval_chances(count: int) -> Float[np.ndarray, " count"]:
    """The chance of each interval (base^-(k+1), base^-k], k = 1..count, for |u v| of the hyperbolic law.

    Formula: q_k = F((k + 1 - m) / K) - F((k - m) / K), m = (K + 2) / 2, F triangular on [-1, 1] [ours]

    log|u| and log|v| are uniform on stretches of count log(base), so log|u v| is triangular; its middle half is the
    intervals, each of which has a chance between 1 / (2 count) and 1 / count.
    """
    centre = (count + 2) / 2
    places = (np.arange(1, count + 2) - centre) / max(1, count)  # -1 and 1 are the ends of the triangle
    # The triangle's distribution function.
    below = np.where(places < 0, (1 + places) ** 2 / 2, 1 - (1 - places) ** 2 / 2)
    return np.diff(below)


def pool_size(misses: Float[np.ndarray, " kinds"], copies: int, delta: float) -> int:
    """Draws that hit every kind for every copy with probability 1 - delta: least m with copies sum misses^m <= delta.

    Formula: least M with copies sum_k p_k^M <= delta [union bound]

    misses: the chance that one draw does not hit a kind. Each copy looks at its own products of the same
    draws; the union bound needs no independence between copies.
    """
    if copies == 0 or len(misses) == 0:
        return 0
    return least(lambda count: copies * float((misses**count).sum()) <= delta)


def batch_size(misses: Float[np.ndarray, " kinds"], outputs: Int[np.ndarray, " inputs"], delta: float) -> int:
    """Draws of one pool handed from input to input, each taking what it needs for all its outputs.

    Formula: M = min_s (sum_i ln E[e^(s T_i)] - ln delta) / s - 1 [Chernoff bound; ours]

    An output waits longer than m draws with probability p <= sum misses^m; given the weights into the neurons,
    outputs are alike and independent, so that c of them wait with P(T > m) <= 1 - (1 - p)^c (Jensen). Every draw is
    looked at for one input alone: the T are independent, and a pool of M is too small with probability at most
    exp(-s (M + 1)) prod E[e^(s T)] (Chernoff), E[e^(s T)] = 1 + (e^s - 1) sum_m e^(s m) P(T > m), at the best s.
    """
    counts, copies = np.unique(outputs[outputs > 0], return_counts=True)
    if len(counts) == 0 or len(misses) == 0:
        return 0
    steps = np.arange(pool_size(misses, int(counts[-1]), _NEVER))
    one = np.minimum(1.0, (misses[:, None] ** steps).sum(0))  # [steps]: P(one output waits longer), by the union bound
    waits = 1 - (1 - one) ** counts[:, None]  # [kinds of inputs, steps]

    def draws(logit: float) -> float:
        scale = -math.log(misses.max()) / (1 + math.exp(-logit))  # e^s misses < 1
        grown = math.exp(scale) * misses
        later = counts * (grown ** len(steps) / (1 - grown)).sum()  # by the union bound, where it costs nothing
        moments = 1 + math.expm1(scale) * (waits @ np.exp(scale * steps) + later)
        return (float(copies @ np.log(moments)) - math.log(delta)) / scale - 1

    # Any s gives a valid bound: the least is wanted.
    best = minimize_scalar(draws, bounds=(-12.0, 6.0), method="bounded")
    return math.ceil(best.fun)


def once_size(chance: float, kinds: int, copies: int, delta: float) -> int:
    """Draws that hit each of `kinds` kinds `copies` times, when a draw serves one weight only: the binomial tail.

    Formula: least M with kinds P(Bin(M, q) < copies) <= delta [binomial tail]
    """
    return least(lambda count: kinds * float(binom.cdf(copies - 1, count, chance)) <= delta)


def malach_size(accuracy: float, weights: int, delta: float) -> int:
    """Neurons a weight needs when one pair must do: u within accuracy / 2 of 1, v within accuracy / 2 of the weight.

    Formula: M = ln(2 n / delta) / -ln(1 - a^2 / 8) [after Malach et al. 2020]

    Both uniform on [-1, 1], as in Malach et al. 2020: a chance of accuracy^2 / 8, for either sign of the input.
    """
    chance = min(0.5, accuracy**2 / 8)
    return math.ceil(math.log(2 * weights / delta) / -math.log1p(-chance))


def least(enough: Callable[[int], bool]) -> int:
    """The least whole number from 1 on that is enough, where any larger one is too."""
    high = 1
    while not enough(high):
        high *= 2
    low = high // 2
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high

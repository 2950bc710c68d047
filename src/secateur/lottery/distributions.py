"""The distributions of random weights, and how the neurons for one input's weights are chosen under each."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import beta

from secateur.core.compiled import compiled
from secateur.core.errors import InputError
from secateur.lottery.bounds import interval_chances, least
from secateur.lottery.golden import decompose
from secateur.lottery.random_weights import Stream, fraction, streams, word
from secateur.lottery.subset_sum import MOST, meet

__all__ = ["Choice", "Distribution", "Hyperbolic", "Places", "Round", "Uniform", "best_round", "measured_miss"]

_1 = np.uint64(1)
_TRIALS = 2000
_FINEST = 2.0**-34
_FEWER = 12  # values the first search of a round leaves out
_LONG = 48  # neurons from which a simulation takes seconds
_DOUBT = 1e-4  # the chance that the true miss is above the one that is promised


class Places(NamedTuple):
    """Where to look: an input, and for every output the first neuron of its pool; how many neurons; sides of zero.

    sides: 2 where the input may be negative (neurons with u > 0, then u < 0), 1 where it cannot.
    """

    input: int
    starts: Int[np.ndarray, " outputs"]
    neurons: int
    sides: int


class Choice(NamedTuple):
    """Neurons chosen `[sides, outputs, slots]`, -1 in empty slots; neurons looked at; what the pool did not hold."""

    neurons: Int[np.ndarray, "sides outputs slots"]
    reach: Int[np.ndarray, " outputs"]
    missing: int


class _Search(NamedTuple):
    """Of subsets: neurons of a round, the largest |u v|, and how near to a weight is near enough."""

    size: int
    widest: float
    accuracy: float


@runtime_checkable
class Distribution(Protocol):
    """A distribution of single weights, with the draws a weight needs under it."""

    @property
    def neurons(self) -> int:
        """Neurons of one draw."""
        ...

    @property
    def misses(self) -> Float[np.ndarray, " kinds"]:
        """The chance that one draw does not give a kind that a weight needs, for one side of zero."""
        ...

    def sizes(self, fractions: Float[np.ndarray, " count"]) -> Float[np.ndarray, " count"]:
        """Sizes of weights from numbers uniform on [0, 1)."""
        ...

    def choose(self, into: Stream, out: Stream, weights: Float[np.ndarray, " outputs"], places: Places) -> Choice:
        """Neurons whose products with one input add up to its weights; weights of 0 need none."""
        ...


@dataclass(frozen=True, kw_only=True)
class Hyperbolic:
    """Density proportional to 1/|w|: log|w| is uniform, so that |u v| falls into every golden interval alike.

    Formula: p(w) ~ 1 / |w|, ln |w| within K/2 ln g of (ln W - (K + 2) / 2 ln g) / 2 [Orseau et al. 2020]

    largest: of the target's weights. The intervals are largest (base^-(k+1), base^-k], k = 1..intervals.
    """

    largest: float
    intervals: int
    base: float

    @property
    def neurons(self) -> int:
        """One neuron is one draw."""
        return 1

    @property
    def misses(self) -> Float[np.ndarray, " kinds"]:
        """All but a quarter of an interval's chance: the signs of u and v must fit too."""
        return 1 - interval_chances(self.intervals) / 4

    @property
    def ends(self) -> tuple[float, float]:
        """Logarithms of the least and the largest weight: the middle of |u v| is that of the intervals."""
        middle = (math.log(self.largest) - (self.intervals + 2) / 2 * math.log(self.base)) / 2
        half = self.intervals / 2 * math.log(self.base)
        return middle - half, middle + half

    def sizes(self, fractions: Float[np.ndarray, " count"]) -> Float[np.ndarray, " count"]:
        """e^low at 0 and e^high at 1."""
        low, high = self.ends
        return np.exp(low + (high - low) * fractions)

    def choose(self, into: Stream, out: Stream, weights: Float[np.ndarray, " outputs"], places: Places) -> Choice:
        """The first neuron in each interval, then the greedy rule for all outputs at once."""
        hits = np.full((places.sides, len(weights), self.intervals), -1, dtype=np.int64)
        # Fills hits: [sides, outputs, intervals]
        missing = _first_hits((into.key, out.key), into.columns, weights, places, hits)
        reach = (hits.max(axis=(0, 2), initial=-1) + 1 - places.starts).clip(0)
        if missing:
            reach[(hits < 0).any(axis=(0, 2)) & (weights != 0)] = places.neurons
        values = self._products(into, out, hits, places.input)
        taken = decompose(np.broadcast_to(np.abs(weights), hits.shape[:2]), np.moveaxis(values, -1, 0)).taken
        return Choice(np.where(np.moveaxis(taken, 0, -1), hits, -1), reach, missing)

    def _products(self, into: Stream, out: Stream, hits: Any, source: int) -> Any:
        """|u v| of every hit; an interval without one is never taken."""
        hit = np.nonzero(hits >= 0)
        neurons = hits[hit]
        inward = into.draws(neurons, np.full(len(neurons), source))[0]
        outward = out.draws(neurons, hit[1])[0]
        values = np.full(hits.shape, np.inf)  # never taken, as nothing is left that large
        values[hit] = self.sizes(inward) * self.sizes(outward)
        return values


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """Uniform weights and subset sums (Lueker 1998, Pensia et al. 2020): |u v| is at most twice the largest weight.

    Formula: |w - sum_{j in J} u_j v_j| <= a, |u| and |v| uniform on [0, sqrt(2 W)] [Lueker 1998; Pensia et al. 2020]

    A draw is a round of neurons, from which the closest subset is taken; miss is the chance that it is farther than
    `accuracy` from a weight, measured by simulation (`best_round`) and not proved; bounds take outputs for alike.
    """

    largest: float
    accuracy: float
    neurons: int
    miss: float

    @property
    def misses(self) -> Float[np.ndarray, " kinds"]:
        """One kind: a subset close enough; none where the empty one is."""
        return np.array([self.miss] if self.miss else [])

    def sizes(self, fractions: Float[np.ndarray, " count"]) -> Float[np.ndarray, " count"]:
        """Up to the root of twice the largest weight."""
        return math.sqrt(2 * self.largest) * fractions

    def choose(self, into: Stream, out: Stream, weights: Float[np.ndarray, " outputs"], places: Places) -> Choice:
        """The closest subset of the first round that holds one close enough."""
        chosen = np.full((places.sides, len(weights), MOST), -1, dtype=np.int64)
        reach = np.zeros(len(weights), dtype=np.int64)
        keys = (into.key, out.key)
        search = _Search(self.neurons, 2 * self.largest, self.accuracy)
        missing = _subsets(keys, into.columns, weights, places, search, (chosen, reach))
        return Choice(chosen, reach, missing)


class Round(NamedTuple):
    """Neurons of a round, and an upper bound on the chance that it holds no close enough subset."""

    neurons: int
    miss: float


def measured_miss(neurons: int, accuracy: float, trials: int) -> float:
    """How often a round misses the largest weight, 1, by more than `accuracy`: Clopper-Pearson's upper end at 1e-4.

    Formula: p <= BetaInv(1 - 1e-4; missed + 1, trials - missed) [Clopper & Pearson 1934]
    """
    law = Uniform(largest=1.0, accuracy=accuracy, neurons=neurons, miss=1.0)
    into, out = streams(neurons, 0, (1, trials))
    starts = np.arange(trials, dtype=np.int64) * neurons
    missed = law.choose(into, out, np.ones(trials), Places(0, starts, neurons, 1)).missing
    # Ppf of a Beta with parameter 0 is NaN.
    return 1.0 if missed == trials else float(beta.ppf(1 - _DOUBT, missed + 1, trials - missed))


def best_round(accuracy: float, wanted: float) -> Round:
    """The round with fewest neurons in all for a miss of `wanted`; accuracy relative to the largest weight.

    Formula: min_n n ceil(ln wanted / ln p_n) [ours]

    Raises InputError below an accuracy of 2^-34, where 40 numbers rarely hold a close enough sum.
    """
    if accuracy < _FINEST:
        raise InputError(
            f"law 'uniform' cannot be right to {accuracy:.1e} of the largest weight: an exact subset sum takes "
            f"{MOST} numbers, good for {_FINEST:.1e}; ask for a larger eps, or for law 'hyperbolic'"
        )
    return _best_round(math.floor(10 * math.log2(accuracy)), math.floor(math.log(wanted)))


@lru_cache(maxsize=256)
def _best_round(tenths: int, logarithm: int) -> Round:
    accuracy, shortest = 2.0 ** (tenths / 10), 2 * max(2, math.ceil(-tenths / 10))
    # Longer rounds miss less often and cost more each; a few lengths are tried, as each takes a simulation.
    sizes = [shortest + more for more in ((12, 18, 24) if shortest < _LONG else (24,))]
    candidates = [Round(size, measured_miss(size, accuracy, _trials(size))) for size in sizes]
    return min(
        candidates,
        key=lambda candidate: candidate.neurons * least(lambda rounds: rounds * math.log(candidate.miss) <= logarithm),
    )


def _trials(neurons: int) -> int:
    """Fewer where each takes longer: its sums grow as 2^(neurons / 4)."""
    return min(_TRIALS, max(300, 2**25 // 2 ** (neurons // 4)))


@compiled
def _first_hits(keys: Any, columns: Any, weights: Any, places: Any, hits: Any) -> int:
    """Fill in the first neuron of every interval, side and output; how many were not met.

    In units of log(base) below the largest weight, |u v| lies at (3 count + 2) / 2 - count (fractions of u and v).
    """
    source, starts, neurons, sides = places
    into, out = keys
    outputs, count, total = len(weights), hits.shape[2], 0
    lowest = (3 * count + 2) / 2
    for output in range(outputs):
        if weights[output] == 0:
            continue
        missing = sides * count
        for neuron in range(starts[output], starts[output] + neurons):
            inward = word(into, neuron * columns + source)
            side = 0 if inward & _1 else 1
            outward = word(out, neuron * outputs + output)
            agree = (inward & _1) == (outward & _1)  # the lowest bits are the signs: u v has the weight's sign
            if side >= sides or agree != (weights[output] > 0):
                continue
            place = int(np.floor(lowest - count * (fraction(inward) + fraction(outward)))) - 1
            if 0 <= place < count and hits[side, output, place] < 0:
                hits[side, output, place] = neuron
                missing -= 1
                if missing == 0:
                    break
        total += missing
    return total


@compiled
def _first_subset(values: Any, names: Any, target: Any, accuracy: Any, chosen: Any) -> bool:
    """Write down the neurons of the first subset close enough; few values first: two more take twice as long."""
    for left_out in range(_FEWER, -1, -2):
        if left_out >= len(values):
            continue
        few = values[: len(values) - left_out]
        bits, rest = meet(few, target, accuracy), target
        for number in range(len(few)):
            rest -= few[number] * ((bits >> number) & 1)
        if abs(rest) <= accuracy:
            for number in range(len(few)):
                if (bits >> number) & 1:
                    chosen[number] = names[number]
            return True
    return False


@compiled
def _subsets(keys: Any, columns: Any, weights: Any, places: Any, search: Any, found: Any) -> int:
    """Fill in the neurons of a close enough subset for every side and output, and the reach; how many found none."""
    source, starts, neurons, sides = places
    into, out = keys
    size, widest, accuracy = search
    chosen, reach = found
    outputs, most, missing = len(weights), chosen.shape[2], 0
    values, names = np.empty(most), np.empty(most, dtype=np.int64)
    for output in range(outputs):
        for side in range(sides):
            met = weights[output] == 0
            begin = 0
            while not met and begin + size <= neurons:
                count = 0
                for neuron in range(starts[output] + begin, starts[output] + begin + size):
                    inward = word(into, neuron * columns + source)
                    if (side == 0) == ((inward & _1) == _1) and count < most:
                        outward = word(out, neuron * outputs + output)
                        sign = 1.0 if (inward & _1) == (outward & _1) else -1.0
                        values[count] = sign * widest * fraction(inward) * fraction(outward)
                        names[count], count = neuron, count + 1
                begin += size
                met = _first_subset(values[:count], names, weights[output], accuracy, chosen[side, output])
            reach[output] = max(reach[output], begin)
            missing += not met
    return missing

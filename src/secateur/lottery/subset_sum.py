"""The subset of some numbers whose sum is closest to a target: exactly for few, on a grid for many."""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from secateur.core.compiled import compiled
from secateur.core.errors import InputError

__all__ = ["MOST", "Subset", "closest_on_grid", "closest_subset", "meet"]

MOST = 40  # numbers of an exact search: two halves of a million sums


class Subset(NamedTuple):
    """Which numbers are taken, and target - their sum."""

    taken: Bool[np.ndarray, " count"]
    rest: float


def closest_subset(values: Float[np.ndarray, " count"], target: float) -> Subset:
    """The exact best of 2^count subsets, by meeting in the middle: O(2^(count/2)) time and memory.

    Formula: min_J |t - sum_{j in J} x_j| [Horowitz & Sahni 1974]

    Raises InputError for more than 40 numbers; `closest_on_grid` takes more.
    """
    if len(values) > MOST:
        raise InputError(f"an exact subset sum takes at most {MOST} numbers, got {len(values)}: use closest_on_grid")
    bits = meet(np.ascontiguousarray(values, dtype=np.float64), float(target), 0.0)
    taken = (bits >> np.arange(len(values))) & 1 == 1
    return Subset(taken, float(target) - float(values[taken].sum()))


def closest_on_grid(values: Float[np.ndarray, " count"], target: float, step: float) -> Subset:
    """The subset whose sum, numbers rounded to multiples of `step`, is closest to the target.

    Formula: min_J |t - d sum_{j in J} round(x_j / d)| [dynamic program]

    Its sum is at most count * step farther from the target than the best one's. A dynamic program over the sums a
    subset can have: O(count * sum |values| / step) time. Raises InputError when the step is no positive number or
    there would be more than 2^28 sums.
    """
    if not 0 < step < math.inf:
        raise InputError(f"step {step} should be a positive number")
    units = np.rint(values / step).astype(np.int64)
    low, high = int(units[units < 0].sum()), int(units[units > 0].sum())
    if high - low >= 1 << 28:
        raise InputError(f"{high - low:,} sums on a grid of {step}: take a wider step")
    first = np.full(high - low + 1, -1, dtype=np.int64)  # the number whose turn first reached a sum
    first[-low] = len(units)  # the empty sum; a number past the last marks where to stop
    for number, unit in enumerate(units):
        known = np.flatnonzero(first >= 0)
        fresh = known + unit
        first[fresh[first[fresh] < 0]] = number
    known = np.flatnonzero(first >= 0)
    place = int(known[np.argmin(np.abs((known + low) * step - target))])
    taken = np.zeros(len(units), dtype=bool)
    while first[place] < len(units):
        number = first[place]
        taken[number] = True
        place -= int(units[number])
    return Subset(taken, float(target) - float(values[taken].sum()))


@compiled
def _sums(values: Any, sums: Any, spare: Any) -> Any:
    """All subset sums in ascending order: one of the two arrays, each of which has room for them.

    A number makes two ascending lists of one, without it and with it, merged from both ends at once: neither half
    waits for the other.
    """
    sums[0], size = 0.0, 1
    for value in values:
        left, right, last, final = 0, 0, size - 1, size - 1
        for place in range(size):
            without, added = sums[left], sums[right] + value
            first = without <= added
            spare[place] = without if first else added
            left += first
            right += not first
            without, added = sums[last], sums[final] + value
            first = without > added
            spare[2 * size - 1 - place] = without if first else added
            last -= first
            final -= not first
        sums, spare, size = spare, sums, 2 * size
    return sums[:size]


@compiled
def _named(values: Any, wanted: Any, sums: Any) -> int:
    """The bits of a subset that has this very sum: numbers are added in the order of `_sums`, so it is met exactly."""
    sums[0], size = 0.0, 1
    for value in values:
        for place in range(size):
            sums[size + place] = sums[place] + value
        size *= 2
    for place in range(size):
        if sums[place] == wanted:
            return place
    return 0


@compiled
def meet(values: Any, target: Any, enough: Any) -> int:
    """The bits of the best subset, or of the first within `enough`: two halves' sums, walked from opposite ends."""
    count = len(values)
    half = count // 2
    low, high = np.empty(1 << half), np.empty(1 << (count - half))
    spare = np.empty(1 << (count - half))
    lows, highs = _sums(values[:half], low, np.empty(1 << half)), _sums(values[half:], high, spare)
    best, one, other, left, right = np.inf, 0.0, 0.0, 0, len(highs) - 1  # one half from below, the other from above
    while left < len(lows) and right >= 0 and best > enough:
        rest = target - lows[left] - highs[right]
        if abs(rest) < best:
            best, one, other = abs(rest), lows[left], highs[right]
        if rest > 0:
            left += 1
        else:
            right -= 1
    return _named(values[:half], one, np.empty(1 << half)) | (_named(values[half:], other, spare) << half)

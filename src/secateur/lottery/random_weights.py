"""The random network's weights by place: any one is computed when it is asked for, none is stored."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from secateur.core.compiled import compiled
from secateur.core.seed import generator

__all__ = ["Stream", "fraction", "streams", "word"]

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _31, _11, _1 = (np.uint64(shift) for shift in (30, 27, 31, 11, 1))


@compiled
def word(key: Any, place: Any) -> Any:
    """64 random bits: SplitMix64's output number `place` from the state `key` (Steele et al. 2014).

    Formula: z ^ (z >> 31), z = (y ^ (y >> 27)) c2, y = (x ^ (x >> 30)) c1, x = key + (n + 1) c [Steele et al. 2014]
    """
    mixed = key + (np.uint64(place) + _1) * _STEP
    mixed = (mixed ^ (mixed >> _30)) * _FIRST
    mixed = (mixed ^ (mixed >> _27)) * _SECOND
    return mixed ^ (mixed >> _31)


@compiled
def fraction(bits: Any) -> Any:
    """The upper 53 bits as a number in [0, 1); the lowest bit is left for a sign."""
    return (bits >> _11) * 2.0**-53


@compiled
def _draws(key: Any, places: Any, fractions: Any, signs: Any) -> None:
    for number in range(len(places)):
        bits = word(key, places[number])
        fractions[number] = fraction(bits)
        signs[number] = 1.0 if bits & _1 else -1.0


@dataclass(frozen=True)
class Stream:
    """One random matrix of `columns` columns, never stored: a key and a rule for its places."""

    key: np.uint64
    columns: int

    def draws(
        self, rows: Int[np.ndarray, " count"], columns: Int[np.ndarray, " count"]
    ) -> tuple[Float[np.ndarray, " count"], Float[np.ndarray, " count"]]:
        """Numbers uniform on [0, 1), and signs, of these entries."""
        # A wide layer has more than 2^31 places.
        places = rows.astype(np.uint64) * np.uint64(self.columns) + columns.astype(np.uint64)
        fractions, signs = np.empty(len(places)), np.empty(len(places))
        _draws(self.key, places, fractions, signs)
        return fractions, signs


def streams(seed: int, layer: int, columns: tuple[int, int]) -> tuple[Stream, Stream]:
    """Streams of a layer's matrices: into its intermediate neurons, and out of them."""
    pair = []
    for number, count in enumerate(columns):
        drawn = torch.randint(0, 1 << 62, (1,), generator=generator(seed, "lottery", layer, number))
        pair.append(Stream(np.uint64(drawn.item()), count))
    return pair[0], pair[1]

"""A named set of ratios: mean, clip, balance, whole weights, save, load."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from secateur.core.errors import InputError, RatioError
from secateur.core.files import read_document, write_document
from secateur.core.pattern import check_ratio

__all__ = ["Allocation"]


@dataclass(frozen=True)
class Allocation:
    """The ratio to remove, by layer name."""

    ratios: Mapping[str, float]

    def __post_init__(self) -> None:
        """Refuse ratios outside 0..1."""
        for ratio in self.ratios.values():
            check_ratio(ratio)

    def mean(self, sizes: Mapping[str, int]) -> float:
        """The parameter-weighted mean ratio."""
        total = sum(sizes[name] for name in self.ratios)
        return sum(ratio * sizes[name] for name, ratio in self.ratios.items()) / total if total else 0.0

    def clip(self, low: float, high: float) -> "Allocation":
        """Every ratio moved into [low, high]."""
        return Allocation({name: min(max(ratio, low), high) for name, ratio in self.ratios.items()})

    def balanced(self, sizes: Mapping[str, int], target: float, low: float = 0.0, high: float = 1.0) -> "Allocation":
        """All ratios moved by one number and clipped, so that their weighted mean is the target.

        Raises RatioError when the target is outside [low, high].
        """
        if not low <= target <= high:
            raise RatioError(f"ratio {target:g} cannot be met within bounds {low:g}..{high:g}: widen them")
        below, above = low - max(self.ratios.values()), high - min(self.ratios.values())
        # By bisection, as clipping makes the mean a bent line of the shift.
        for _ in range(100):
            shift = (below + above) / 2
            shifted = Allocation({name: min(max(ratio + shift, low), high) for name, ratio in self.ratios.items()})
            below, above = (below, shift) if shifted.mean(sizes) >= target else (shift, above)
        return shifted

    def counts(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Whole weights to remove; rounding is carried on, so that every running sum is right to half a weight."""
        exact, given, counts = 0.0, 0, dict[str, int]()
        for name, ratio in self.ratios.items():
            # Rounding is carried on, else a hundred layers could miss the total by fifty weights.
            exact += ratio * sizes[name]
            counts[name] = min(max(round(exact) - given, 0), sizes[name])
            given += counts[name]
        return counts

    def group_counts(self, sizes: Mapping[str, int], m: int) -> dict[str, int]:
        """How many of every m weights go in each layer, 1 to m - 1; a layer of ratio 0 stays whole.

        What rounding takes is carried to the next layer, and at last back to earlier ones. Raises RatioError
        where what is still owed then is more than rounding.
        """
        owed, gone = 0.0, dict.fromkeys(self.ratios, 0)
        chosen = [name for name, ratio in self.ratios.items() if ratio > 0]
        for name in chosen:
            owed += self.ratios[name] * sizes[name]
            gone[name] = min(max(round(owed / sizes[name] * m), 1), m - 1)
            owed -= gone[name] / m * sizes[name]
        for name in reversed(chosen):  # front to back rounds, back to front takes what is left
            more = min(max(gone[name] + round(owed / sizes[name] * m), 1), m - 1) - gone[name]
            gone[name] += more
            owed -= more / m * sizes[name]
        most = max((sizes[name] for name in chosen), default=0) / m
        if owed < -most:
            raise RatioError(
                f"{-owed:,.0f} weights too many would go: a layer that loses any loses 1 of every {m} at least; "
                "ask for more, or use groups with a larger m"
            )
        if owed > most:
            raise RatioError(
                f"{owed:,.0f} weights cannot go: a layer loses at most {m - 1} of every {m} weights, and some blocks "
                "are exempt; spare fewer blocks, or use groups with a larger m"
            )
        return gone

    def save(self, path: Path) -> None:
        """Write the ratios as JSON."""
        write_document(path, dict(self.ratios))

    @classmethod
    def load(cls, path: Path) -> "Allocation":
        """Read what `save` wrote; raises InputError on anything else."""
        data = read_document(path)
        for name, ratio in data.items():
            if isinstance(ratio, bool) or not isinstance(ratio, int | float):
                raise InputError(f"{path}: the ratio of {name!r} should be a number, got {ratio!r}")
        return cls({name: float(ratio) for name, ratio in data.items()})

"""A named set of ratios: mean, clip, save, load."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from secateur.core.document import read_document, write_document
from secateur.core.errors import InputError
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

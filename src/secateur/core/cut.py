"""A named set of kept indices per site: the plan of a physical shrink, as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from secateur.core.errors import InputError
from secateur.core.files import read_document, write_document

__all__ = ["Cut"]


@dataclass(frozen=True)
class Cut:
    """Kept indices by site name; none where all units of a site go."""

    kept: Mapping[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        """Refuse negative, repeated or unsorted indices."""
        for site, indices in self.kept.items():
            rising = all(a < b for a, b in pairwise(indices))  # slices keep their order, so a cut has one
            if (indices and indices[0] < 0) or not rising:
                raise InputError(f"cut of site {site!r} must list rising, distinct indices, got {indices}")

    def save(self, path: Path) -> None:
        """Write the kept indices as JSON."""
        write_document(path, {site: list(indices) for site, indices in self.kept.items()})

    @classmethod
    def load(cls, path: Path) -> "Cut":
        """Read what `save` wrote; raises InputError on anything else."""
        data = read_document(path)
        for site, indices in data.items():
            # isinstance would let True pass.
            if not isinstance(indices, list) or not all(type(index) is int for index in indices):
                raise InputError(f"{path}: site {site!r} should be a list of whole numbers")
        return cls({site: tuple(indices) for site, indices in data.items()})

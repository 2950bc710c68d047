"""The same ratio everywhere."""

from collections.abc import Mapping
from dataclasses import dataclass

from secateur.core.allocation import Allocation

__all__ = ["Uniform"]


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """Every block loses the same share."""

    def allocate(self, sizes: Mapping[str, int], ratio: float) -> Allocation:
        """The target for every name. Raises RatioError outside 0..1."""
        return Allocation(dict.fromkeys(sizes, ratio))

"""The same ratio everywhere."""

from collections.abc import Iterable

from secateur.core.allocation import Allocation

__all__ = ["uniform"]


def uniform(names: Iterable[str], ratio: float) -> Allocation:
    """Every named layer gets the target ratio. Raises RatioError outside 0..1."""
    return Allocation(dict.fromkeys(names, ratio))

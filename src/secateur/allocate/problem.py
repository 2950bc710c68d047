"""What an allocator is given: the sizes of what can be pruned, and summaries of the dense blocks."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from secateur.core.allocation import Allocation
from secateur.core.protocols import BlockView, Statistic, Watcher

__all__ = ["Allocator", "CalibratedAllocator", "Problem"]


class Problem(NamedTuple):
    """Weights by layer, by block, in forward order; and what a calibrated allocator keeps of each block."""

    blocks: Mapping[str, Mapping[str, int]]
    summaries: Mapping[str, Any] = {}

    @property
    def sizes(self) -> dict[str, int]:
        """Weights by block."""
        return {name: sum(layers.values()) for name, layers in self.blocks.items()}

    @property
    def layers(self) -> dict[str, int]:
        """Weights by layer."""
        return {name: size for layers in self.blocks.values() for name, size in layers.items()}


@runtime_checkable
class Allocator(Protocol):
    """Says how much goes where; ratios by block name, by layer name, or both (a layer's own counts)."""

    def allocate(self, problem: Problem, ratio: float) -> Allocation:
        """Ratios whose weighted mean is the target."""
        ...


@runtime_checkable
class CalibratedAllocator(Allocator, Protocol):
    """An allocator that summarises every dense block once, in forward order."""

    @property
    def needs(self) -> tuple[type[Statistic], ...]:
        """The statistics of every layer's inputs it reads."""
        ...

    def watch(self) -> Watcher | None:
        """A fresh watcher of one block, or None."""
        ...

    def read(self, view: BlockView) -> Any:
        """What it keeps of a block: something small."""
        ...

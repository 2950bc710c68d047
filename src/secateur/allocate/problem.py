"""What an allocator is given: the sizes of what can be pruned, and summaries of the dense blocks."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from secateur.core.allocation import Allocation
from secateur.core.protocols import BlockView, Statistic, Watcher

__all__ = ["Allocator", "CalibratedAllocator", "Judge", "JudgedAllocator", "Problem"]


@runtime_checkable
class Judge(Protocol):
    """The model masked in one shot by Wanda's ranks; ratios are by layer name, and what has none stays whole."""

    def loss(self, ratios: Mapping[str, float], label: str) -> float:
        """Mean loss of the masked model on held-out windows, nats a token; noted under the label."""
        ...

    def prices(self, ratios: Mapping[str, float], moves: Sequence[float]) -> dict[str, list[float]]:
        """How much the masked model's loss is expected to change when a layer's ratio moves by so much, for each move.

        Nats a token, by layer name.
        """
        ...


class Problem(NamedTuple):
    """Weights by layer, by block, in forward order; what a calibrated allocator keeps of each block; a judge for one
    that asks for it."""

    blocks: Mapping[str, Mapping[str, int]]
    summaries: Mapping[str, Any] = {}
    judge: Judge | None = None

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


@runtime_checkable
class JudgedAllocator(CalibratedAllocator, Protocol):
    """An allocator that compares allocations by masked models; it keeps the norms of every layer's inputs."""

    def norms(self, problem: Problem) -> Mapping[str, Tensor]:
        """The root mean square of every input `[in]`, by layer name, from the summaries."""
        ...

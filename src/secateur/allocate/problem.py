"""What an allocator is given: the sizes of what can be pruned, and summaries of the dense blocks."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from secateur.core.allocation import Allocation
from secateur.core.protocols import BlockView, Statistic, Watcher

__all__ = ["Allocator", "CalibratedAllocator", "Judge", "JudgedAllocator", "PricingJudge", "Problem", "UnitAllocator"]


@runtime_checkable
class Judge(Protocol):
    """The model masked in one shot; ratios are by layer name, and what has none stays whole. told: losses by label."""

    told: dict[str, float]

    def loss(self, ratios: Mapping[str, float], label: str) -> float:
        """Mean loss of the masked model on held-out windows, nats a token; noted under the label.

        Raises RatioError where no whole weights, groups or units meet the ratios.
        """
        ...


@runtime_checkable
class PricingJudge(Judge, Protocol):
    """A judge that also says what small moves cost. group: m, where n of every m weights stay."""

    group: int | None

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
    """An allocator that compares allocations by masked models; it keeps what they are masked by."""

    def inputs(self, problem: Problem) -> Mapping[str, Tensor]:
        """By layer name, from the summaries: the root mean square of every input `[in]`.

        Where whole units go, the Gram of the inputs `[in, in]` of every layer that loses columns.
        """
        ...


@runtime_checkable
class UnitAllocator(Allocator, Protocol):
    """An allocator that leaves its place to another where whole units go."""

    def for_units(self, sites: str) -> Allocator:
        """The other one. sites: all, or ffn where heads stay."""
        ...

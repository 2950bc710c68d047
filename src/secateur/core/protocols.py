"""The protocols methods satisfy; anything with a protocol's members will do."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from secateur.core.shapes import Activations, Hidden, Keep, ScoreMatrix, Weight

__all__ = ["BlockView", "Pattern", "Score", "Solution", "Solver", "Statistic", "Stats", "Watcher"]

S = TypeVar("S")


class Statistic(ABC):
    """A summary of a layer's inputs, gathered batch by batch."""

    @abstractmethod
    def update(self, x: Activations) -> None:
        """Add a batch of inputs."""

    @abstractmethod
    def merge(self: S, other: S) -> S:
        """The statistic of both sets of inputs; associative."""

    @property
    @abstractmethod
    def value(self) -> Tensor:
        """The summary itself."""


@runtime_checkable
class Stats(Protocol):
    """The statistics of one layer, looked up by type."""

    def __getitem__(self, kind: type[S], /) -> S:
        """The gathered statistic of this type."""
        ...


@runtime_checkable
class Score(Protocol):
    """Importance of every weight: low is removed first."""

    @property
    def needs(self) -> tuple[type[Statistic], ...]:
        """The statistics this score reads."""
        ...

    def __call__(self, weight: Weight, stats: Stats) -> ScoreMatrix:
        """Score every weight of a matrix."""
        ...


@runtime_checkable
class Pattern(Protocol):
    """Which shapes of zeros are allowed."""

    def check(self, shape: tuple[int, int], ratio: float) -> None:
        """Raise PatternError or RatioError when this shape and ratio cannot be met."""
        ...

    def keep(self, score: ScoreMatrix, ratio: float) -> Keep:
        """Keep the highest scores of a whole matrix."""
        ...

    def window(self, width: int) -> int:
        """How many columns a sweep should choose together, near `width`."""
        ...

    def keep_window(self, score: ScoreMatrix, ratio: float, start: int) -> Keep:
        """Keep the highest scores of the columns from `start`, as one window of a sweep."""
        ...


class Solution(NamedTuple):
    """One solved matrix: new weight, keep mask, loss, and what its bias gains `[out]`, if anything.

    The loss is ||(W - W') X||^2 / tokens, or None when no Gram was gathered.
    """

    weight: Weight
    keep: Keep
    loss: float | None
    bias: Tensor | None = None


@runtime_checkable
class Solver(Protocol):
    """Chooses what to remove from a matrix and repairs what is left."""

    name: ClassVar[str]

    @property
    def needs(self) -> tuple[type[Statistic], ...]:
        """The statistics this solver reads."""
        ...

    def solve(self, weight: Weight, stats: Stats, pattern: Pattern, ratio: float) -> Solution:
        """Remove `ratio` of the weights under the pattern."""
        ...


@runtime_checkable
class Watcher(Protocol):
    """Sees what goes into a block and what comes out, batch by batch."""

    def update(self, before: Hidden, after: Hidden) -> None:
        """Add a batch `[samples, length, hidden]`."""
        ...

    @property
    def value(self) -> Any:
        """The summary."""
        ...


class BlockView(NamedTuple):
    """One dense block: weights and input statistics by layer name in forward order, and what a watcher saw.

    ends: the layers whose inputs are units, heads or ffn channels: attention's last and the ffn's.
    """

    weights: Mapping[str, Weight]
    stats: Mapping[str, Stats]
    watched: Any = None
    ends: tuple[str, ...] = ()

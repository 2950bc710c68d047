"""Calls: the arguments every block is called with in every batch; tensors that batches have in common are held once."""

from typing import Any

import torch
from torch import Tensor

from secateur.core.errors import ModelError

__all__ = ["Calls"]

_Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Calls:
    """Arguments beside the hidden states, by block and batch.

    Masks and positions are mostly those of the first batch of that size, which then stands for them; what depends on
    the tokens is held for every batch. Mutable arguments, through which blocks hand each other keys and values, are
    the same object for every block of a batch.
    """

    def __init__(self) -> None:
        """No calls yet."""
        self._calls: dict[tuple[int, int], _Arguments] = {}
        self._first: dict[tuple[int, int], _Arguments] = {}  # by block and samples
        self._differing: set[int] = set()
        self._same: dict[tuple[int, int], tuple[Tensor, Tensor, bool]] = {}  # both tensors: else ids are used again

    def common(self, block: int, samples: int) -> _Arguments:
        """The arguments of a block in every batch of that many samples. Raises ModelError where they differ."""
        if block in self._differing:
            raise ModelError(
                f"block {block} is called with tensors that depend on the tokens, so its batches cannot be mixed: "
                "leave reconstruction and learned masks out"
            )
        return self._first[block, samples]

    def keep(self, block: int, batch: int, samples: int, arguments: _Arguments) -> None:
        """Hold one call's arguments."""
        first = self._first.setdefault((block, samples), arguments)
        args = self._shared(arguments[0], first[0])
        named = {name: self._shared(value, first[1].get(name)) for name, value in arguments[1].items()}
        pairs = [*zip(args, first[0], strict=True), *((value, first[1].get(name)) for name, value in named.items())]
        if any(_differ(value, other) for value, other in pairs):
            self._differing.add(block)
        self._calls[block, batch] = args, named

    def seal(self) -> None:
        """Forget what was only needed to compare a batch with earlier ones; call it after each batch."""
        self._same.clear()

    def __getitem__(self, key: tuple[int, int]) -> _Arguments:
        """The arguments of a block's call in a batch."""
        return self._calls[key]

    def _shared(self, mine: Any, first: Any) -> Any:
        """The same values, with the first's tensors in place of equal ones."""
        if isinstance(mine, Tensor) and isinstance(first, Tensor):
            return first if self._equal(mine, first) else mine
        if type(mine) is tuple and type(first) is tuple and len(mine) == len(first):
            return tuple(self._shared(each, other) for each, other in zip(mine, first, strict=True))
        return mine

    def _equal(self, mine: Tensor, first: Tensor) -> bool:
        if mine is first:
            return True
        key = id(mine), id(first)
        if key not in self._same:
            alike = mine.shape == first.shape and mine.dtype == first.dtype
            self._same[key] = mine, first, alike and torch.equal(mine, first)
        return self._same[key][2]


def _differ(value: Any, first: Any) -> bool:
    """Whether a call's argument holds a tensor that is not the first call's."""
    if isinstance(value, Tensor):
        return value is not first
    if type(value) is tuple and type(first) is tuple:
        return any(_differ(mine, its) for mine, its in zip(value, first, strict=False))
    return isinstance(value, dict | list) and value is not first

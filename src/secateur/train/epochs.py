"""Epochs: batches of examples of similar length, in a new random order every epoch."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Epochs"]

_CHUNK = 50  # batches that are sorted by length together


class Epochs:
    """As many batches as some epochs have, in the order of transformers' LengthGroupedSampler, draw for draw."""

    def __init__(
        self,
        lengths: Sequence[int],
        collate: Callable[[list[int]], Any],
        *,
        batch: int,
        epochs: float,
        stream: torch.Generator,
    ) -> None:
        """lengths: of the examples. collate: makes a batch of their numbers. epochs: a part of one counts too."""
        self.lengths, self.collate, self.batch, self.stream = list(lengths), collate, batch, stream
        self.per_epoch = math.ceil(len(lengths) / batch)
        self.steps = math.ceil(epochs * self.per_epoch)
        self.order: list[int] = []

    def __len__(self) -> int:
        """Batches of all epochs."""
        return self.steps

    def __getitem__(self, number: int, /) -> Any:
        """One batch; the first of an epoch draws the epoch's order."""
        place = number % self.per_epoch
        if place == 0:
            self.order = self._draw()
        return self.collate(self.order[place * self.batch : (place + 1) * self.batch])

    def state(self) -> dict[str, Tensor]:
        """The order of the epoch that is under way; the step tells how far it is."""
        return {"order": torch.tensor(self.order, dtype=torch.long)}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore an epoch's order."""
        self.order = tensors["order"].tolist()

    def _draw(self) -> list[int]:
        """Shuffle, then sort by length inside chunks; the longest example comes first of all."""
        # torch's DataLoader draws a seed for its workers before its sampler draws: without it no later draw is the same
        torch.empty((), dtype=torch.int64).random_(generator=self.stream)
        shuffled = torch.randperm(len(self.lengths), generator=self.stream).tolist()
        size = self.batch * max(1, min(len(self.lengths) // (self.batch * 4), _CHUNK))
        chunks = [
            sorted(shuffled[start : start + size], key=lambda row: self.lengths[row], reverse=True)
            for start in range(0, len(shuffled), size)
        ]
        # if memory runs out, it should at the first step
        longest = max(chunks, key=lambda chunk: self.lengths[chunk[0]])
        chunks[0][0], longest[0] = longest[0], chunks[0][0]
        return [row for chunk in chunks for row in chunk]

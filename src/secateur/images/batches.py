"""Batches: pictures in a new order every epoch, shifted and mirrored, each fixed by its number alone."""

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor
from torch.nn.functional import pad

from secateur.core.errors import InputError
from secateur.core.seed import generator
from secateur.images.pictures import Pictures

__all__ = ["Batches", "held_apart"]

_SHIFT = 8  # pictures are shifted by up to an eighth of their size


class Batches(Sequence[tuple[Tensor, Tensor]]):
    """A batch for every step. Nothing has to be saved to go on at any of them.

    rank, ranks: this process takes every `ranks`-th picture of each batch.
    """

    def __init__(
        self, pictures: Pictures, size: int, epochs: int, *, seed: int = 0, rank: int = 0, ranks: int = 1
    ) -> None:
        """Raises InputError where classes are unknown, or a batch has too few pictures."""
        if pictures.classes is None:
            raise InputError("training needs classes: put pictures into a folder for each class")
        if len(pictures.pixels) < size or size < 2 * ranks:
            raise InputError(
                f"batches of {size} need as many pictures, and two for each process: there are "
                f"{len(pictures.pixels)} pictures and {ranks} processes"
            )
        self.pictures, self.size, self.seed = pictures, size, seed
        self.rank, self.ranks = rank, ranks
        last = pictures.pixels.is_contiguous(memory_format=torch.channels_last)
        self.form = torch.channels_last if last else torch.contiguous_format
        self.epoch = len(pictures.pixels) // size
        self.steps = self.epoch * epochs

    def __len__(self) -> int:
        """How many batches there are in all epochs."""
        return self.steps

    @overload
    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]: ...
    @overload
    def __getitem__(self, number: slice) -> list[tuple[Tensor, Tensor]]: ...
    def __getitem__(self, number: int | slice) -> tuple[Tensor, Tensor] | list[tuple[Tensor, Tensor]]:
        """The pictures `[batch, channels, high, wide]` of a step, and their classes."""
        if isinstance(number, slice):
            return [self[place] for place in range(*number.indices(self.steps))]
        epoch, place = divmod(number, self.epoch)
        order = torch.randperm(len(self.pictures.pixels), generator=generator(self.seed, "epoch", epoch))
        chosen = order[place * self.size : (place + 1) * self.size]
        stream = generator(self.seed, "augment", number)
        pixels = _augmented(self.pictures.pixels[chosen], stream)
        classes = self.pictures.classes
        assert classes is not None
        own = pixels[self.rank :: self.ranks].contiguous(memory_format=self.form)
        return own, classes[chosen][self.rank :: self.ranks]


def held_apart(pictures: Pictures, share: float, seed: int) -> tuple[Pictures, Pictures]:
    """Pictures that train, and a share that does not."""
    order = torch.randperm(len(pictures.pixels), generator=generator(seed, "held pictures"))
    held = max(1, round(share * len(order)))

    def part(chosen: Tensor) -> Pictures:
        return Pictures(pictures.pixels[chosen], None if pictures.classes is None else pictures.classes[chosen])

    return part(order[held:]), part(order[:held])


def _augmented(pixels: Tensor, stream: torch.Generator) -> Tensor:
    """Every picture mirrored or not, and shifted by up to an eighth of its size, zeros beyond the edge."""
    count, _, high, wide = pixels.shape
    mirrored = torch.rand(count, generator=stream) < 0.5
    pixels = torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels)
    far = max(1, min(high, wide) // _SHIFT)
    padded = pad(pixels, (far, far, far, far))
    tops, lefts = torch.randint(0, 2 * far + 1, (2, count), generator=stream).tolist()
    shifted = [one[:, top : top + high, left : left + wide] for one, top, left in zip(padded, tops, lefts, strict=True)]
    return torch.stack(shifted)

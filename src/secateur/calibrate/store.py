"""Activations between blocks: in memory, or in memory-mapped files past a byte limit."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from secateur.core.files import reserve, storage_errors

__all__ = ["Store"]


class Store:
    """A list of tensors, one a batch, that spills to disk past `limit` bytes.

    A spilled tensor lives in a memory-mapped file of its own; the operating system
    pages it in and out. Files go when the store is closed. Tensors of a GPU are held in the machine's own
    memory, and come back to the device when they are asked for.
    """

    def __init__(
        self, count: int, *, limit: int, folder: Path | None = None, device: torch.device | None = None
    ) -> None:
        """Room for `count` tensors; `folder` holds the spill files; `device` is where tensors come back to."""
        self._device = device or torch.device("cpu")
        self._items: list[Tensor | None] = [None] * count
        self._files: dict[int, Path] = {}
        self._limit = limit
        self._held = 0
        self._folder = folder
        self._spill: tempfile.TemporaryDirectory[str] | None = None

    def __len__(self) -> int:
        """How many tensors there is room for."""
        return len(self._items)

    def __getitem__(self, index: int) -> Tensor:
        """The tensor put at this index."""
        item = self._items[index]
        if item is None:
            raise IndexError(f"nothing was put at {index}")
        return item.to(self._device)

    def __setitem__(self, index: int, value: Tensor) -> None:
        """Hold a tensor, in memory while the limit allows, else in a mapped file."""
        self.drop(index)  # else the old tensor would count twice against the limit
        value = value.cpu()
        if self._held + value.nbytes > self._limit:
            self._items[index] = self._mapped(index, value)
        else:
            self._items[index] = value
            self._held += value.nbytes

    def drop(self, index: int) -> None:
        """Forget one tensor and free what it took."""
        item, self._items[index] = self._items[index], None
        path = self._files.pop(index, None)
        if path is not None:
            path.unlink()
        elif item is not None:
            self._held -= item.nbytes

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, in memory and in files."""
        return sum(item.nbytes for item in self._items if item is not None)

    @property
    def spilled(self) -> int:
        """How many tensors are in files."""
        return len(self._files)

    def all(self) -> Iterator[Tensor]:
        """Every tensor, in order."""
        return (self[index] for index in range(len(self)))

    def fill(self, values: Sequence[Tensor]) -> None:
        """Put a tensor at every index."""
        for index, value in enumerate(values):
            self[index] = value

    def close(self) -> None:
        """Forget everything and remove the files."""
        self._items = [None] * len(self._items)
        self._files.clear()
        self._held = 0
        if self._spill is not None:
            self._spill.cleanup()
            self._spill = None

    def _mapped(self, index: int, value: Tensor) -> Tensor:
        if self._spill is None:
            self._spill = tempfile.TemporaryDirectory(prefix="secateur-", dir=self._folder)
        path = Path(self._spill.name) / f"{index}.bin"
        with storage_errors(path.parent):
            reserve(path, value.nbytes)  # a mapped file that the disk has no room for kills the process
        # Shared: pages are written back and may leave memory.
        mapped = torch.from_file(str(path), shared=True, size=value.numel(), dtype=value.dtype)
        mapped = mapped.view(value.shape)
        mapped.copy_(value)
        self._files[index] = path
        return mapped

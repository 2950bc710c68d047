"""A fixed share of the tokens a layer or a block sees: the same tokens everywhere."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from secateur.core.errors import CalibrationError
from secateur.core.protocols import Statistic
from secateur.core.shapes import Activations, Hidden

__all__ = ["BlockSamples", "Samples"]

_LIMIT = 2048


def _keys(index: Int[Tensor, " tokens"]) -> Int[Tensor, " tokens"]:
    """A fixed random number for every token's position, by integer mixing (splitmix)."""
    key = index * -7046029254386353131
    key = (key ^ (key >> 30)) * -4658895280553007687
    key = (key ^ (key >> 27)) * -7723592293110705685
    return key ^ (key >> 31)


class Samples(Statistic):
    """Up to `limit` inputs `[tokens, in]`, chosen by position in the stream: the same at every layer."""

    def __init__(self, limit: int = _LIMIT, start: int = 0) -> None:
        """Start at a position of the stream, 0 unless this is a later part of it."""
        self.limit = limit
        self.start = start
        self.seen = 0
        self.index = torch.zeros(0, dtype=torch.int64)
        self.rows: Tensor | None = None

    def update(self, x: Activations) -> None:
        """Add a batch of inputs."""
        index = torch.arange(self.start + self.seen, self.start + self.seen + len(x))
        self.seen += len(x)
        self._keep(index, x.float())

    def merge(self, other: "Samples") -> "Samples":
        """The samples of both parts of the stream."""
        both = Samples(self.limit, min(self.start, other.start))
        both.seen = self.seen + other.seen
        for part in sorted((self, other), key=lambda part: part.start):
            if part.rows is not None:
                both._keep(part.index, part.rows)
        return both

    def _keep(self, index: Tensor, rows: Tensor) -> None:
        index = torch.cat([self.index, index])
        rows = rows if self.rows is None else torch.cat([self.rows, rows])
        if len(index) > self.limit:
            # The lowest keys of all seen so far: the same choice in whatever parts the stream comes.
            chosen = _keys(index).topk(self.limit, largest=False).indices.sort().values
            index, rows = index[chosen], rows[chosen]  # [limit], [limit, in]
        self.index, self.rows = index, rows.clone()  # a view would keep the whole batch alive

    @property
    def value(self) -> Float[Tensor, "tokens in"]:
        """The samples in stream order. Raises CalibrationError without tokens, or with NaN or inf."""
        if self.rows is None or not torch.isfinite(self.rows).all():
            raise CalibrationError("sampled activations are missing or hold NaN or inf: try --dtype float32")
        return self.rows


@dataclass
class BlockSamples:
    """Samples of what enters a block ("input"), leaves it ("output") or is added by it ("update").

    The first token of each sample may be left out.
    """

    samples: Samples
    source: Literal["input", "output", "update"] = "input"
    drop_first: bool = False

    def update(self, before: Hidden, after: Hidden) -> None:
        """Add a batch `[samples, length, hidden]`."""
        parts = {"input": before, "output": after}
        seen = (parts[self.source] if self.source in parts else after - before)[:, int(self.drop_first) :]
        self.samples.update(seen.reshape(-1, seen.shape[-1]))

    @property
    def value(self) -> Float[Tensor, "tokens hidden"]:
        """The samples in stream order."""
        return self.samples.value

"""Site: one place to cut, as data: which rows and columns go together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from secateur.core.errors import InputError
from secateur.core.pattern import Columns

__all__ = ["Index", "Site", "Slice", "kept_slices"]

Index = Int[Tensor, "count _"]


@dataclass(frozen=True, eq=False)
class Site:
    """Units of a block that are cut whole: head groups, heads or ffn channels.

    rows and columns map a layer's name to an index `[count, size]`: row u holds the
    outputs (inputs) of that layer that belong to unit u. Any number of layers may
    have either, and one both; a solver sees the first that has columns. groups: units
    come in that many equal runs, and each run loses equally many (query heads of a KV group).
    """

    name: str
    kind: str
    count: int
    weights: int
    rows: Mapping[str, Index]
    columns: Mapping[str, Index]
    groups: int = 1

    def __post_init__(self) -> None:
        """Refuse a site that nobody could solve, and indices of other than `count` units."""
        if not self.columns:
            raise InputError(f"site {self.name!r} should name a layer whose columns go: a solver sees that one")
        for name, index in (*self.rows.items(), *self.columns.items()):
            if len(index) != self.count:
                raise InputError(f"site {self.name!r} has {self.count} units, and {len(index)} places in {name!r}")

    @property
    def layer(self) -> str:
        """The layer whose columns are solved."""
        return next(iter(self.columns))

    @property
    def pattern(self) -> Columns:
        """The shape of zeros a solver leaves at this site."""
        return Columns(unit=self.columns[self.layer].shape[1], groups=self.groups)

    @property
    def step(self) -> int:
        """How many units must go at once."""
        return self.groups


class Slice(NamedTuple):
    """What stays of a layer `[out, in]`: rows and columns, each None where all stay."""

    rows: Int[Tensor, " kept"] | None = None
    columns: Int[Tensor, " kept"] | None = None

    def joined(self, other: "Slice", layer: str) -> "Slice":
        """Both cuts of one layer. Raises InputError where both cut the same dimension: one would be lost."""
        for name, mine, its in zip(self._fields, self, other, strict=True):
            if mine is not None and its is not None:
                raise InputError(f"two sites cut the {name} of {layer!r}: one site should name all that go together")
        return Slice(
            self.rows if other.rows is None else other.rows,
            self.columns if other.columns is None else other.columns,
        )

    def shape(self, rows: int, columns: int) -> tuple[int, int]:
        """What `[rows, columns]` becomes."""
        return (
            rows if self.rows is None else len(self.rows),
            columns if self.columns is None else len(self.columns),
        )

    def cut(self, tensor: Tensor) -> Tensor:
        """What stays of a weight `[out, in]`, or of a bias `[out]`, which has no columns to lose."""
        if self.rows is not None:
            tensor = tensor.index_select(0, self.rows)
        return tensor if self.columns is None or tensor.dim() == 1 else tensor.index_select(1, self.columns)


def kept_slices(site: Site, kept: tuple[int, ...]) -> dict[str, Slice]:
    """What stays of every layer of the site, in rows, columns or both.

    Raises InputError on units the site does not have, and where no channel would stay.
    """
    chosen = torch.tensor(kept, dtype=torch.long)
    if kept and kept[-1] >= site.count:
        raise InputError(f"cut of site {site.name!r} keeps units up to {kept[-1]}, but it has {site.count}")
    if not kept and site.kind == "ffn":
        raise InputError(f"cut of site {site.name!r} keeps no channel: remove the block instead")
    parts = {name: Slice(rows=index[chosen].flatten().sort().values) for name, index in site.rows.items()}
    for name, index in site.columns.items():
        columns = Slice(columns=index[chosen].flatten().sort().values)
        parts[name] = parts[name].joined(columns, name) if name in parts else columns
    return parts

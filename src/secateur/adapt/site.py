"""Site: one place to cut, as data: which rows and columns go together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from secateur.core.errors import InputError
from secateur.core.pattern import Columns

__all__ = ["Index", "Site", "Slice", "site_slices"]

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
    """What goes of a layer `[out, in]`: rows and columns, each None where all stay; the others keep their order."""

    rows: Int[Tensor, " gone"] | None = None
    columns: Int[Tensor, " gone"] | None = None

    def joined(self, other: "Slice", layer: str) -> "Slice":
        """Both cuts of one layer. Raises InputError where both remove the same row or column."""
        return Slice(
            _joined(self.rows, other.rows, f"rows of {layer!r}"),
            _joined(self.columns, other.columns, f"columns of {layer!r}"),
        )

    def shape(self, rows: int, columns: int) -> tuple[int, int]:
        """What `[rows, columns]` becomes."""
        return (
            rows if self.rows is None else rows - len(self.rows),
            columns if self.columns is None else columns - len(self.columns),
        )

    def kept(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """The rows and columns of `[rows, columns]` that stay, in order."""
        return _others(self.rows, rows), _others(self.columns, columns)

    def cut(self, tensor: Tensor) -> Tensor:
        """What stays of a weight `[out, in]`, or of a bias `[out]`, which has no columns to lose."""
        if self.rows is not None:
            tensor = tensor.index_select(0, _others(self.rows, tensor.shape[0]))  # [kept rows, in]
        if self.columns is not None and tensor.dim() > 1:
            tensor = tensor.index_select(1, _others(self.columns, tensor.shape[1]))  # [rows, kept columns]
        return tensor


def _joined(mine: Tensor | None, its: Tensor | None, what: str) -> Tensor | None:
    if mine is None or its is None:
        return its if mine is None else mine
    both = torch.cat([mine, its]).unique()
    if len(both) < len(mine) + len(its):
        raise InputError(f"two sites cut the same {what}: one site should name all that go together")
    return both


def _others(gone: Tensor | None, size: int) -> Tensor:
    stays = torch.ones(size, dtype=torch.bool)  # a mask keeps the order, whatever order `gone` has
    if gone is not None:
        stays[gone] = False
    return stays.nonzero().flatten()


def site_slices(site: Site, kept: tuple[int, ...]) -> dict[str, Slice]:
    """What goes of every layer of the site, in rows, columns or both; rows that no unit names stay.

    Raises InputError on units the site does not have, and where no channel would stay.
    """
    if kept and kept[-1] >= site.count:
        raise InputError(f"cut of site {site.name!r} keeps units up to {kept[-1]}, but it has {site.count}")
    if not kept and site.kind in ("ffn", "channels"):
        remedy = "remove the block instead" if site.kind == "ffn" else "keep one at least"
        raise InputError(f"cut of site {site.name!r} keeps no channel: {remedy}")
    gone = _others(torch.tensor(kept, dtype=torch.long), site.count)
    parts = {name: Slice(rows=index[gone].flatten().sort().values) for name, index in site.rows.items()}
    for name, index in site.columns.items():
        columns = Slice(columns=index[gone].flatten().sort().values)
        # One site may cut a layer both ways: a convolution that feeds itself through a residual.
        parts[name] = parts[name].joined(columns, name) if name in parts else columns
    return parts

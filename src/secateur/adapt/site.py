"""Site: one place to cut, as data: which rows and columns go together."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from secateur.core.errors import InputError
from secateur.core.pattern import Columns

__all__ = ["Index", "Site", "kept_slices"]

Index = Int[Tensor, "count _"]
_KINDS = ("kv_groups", "heads", "ffn")


@dataclass(frozen=True, eq=False)
class Site:
    """Units of a block that are cut whole: head groups, heads or ffn channels.

    rows and columns map a layer's name to an index `[count, size]`: row u holds the
    outputs (inputs) of that layer that belong to unit u. Exactly one layer has
    columns: the one a solver sees. groups: units come in that many equal runs, and
    each run loses equally many (query heads of a KV group).
    """

    name: str
    kind: str
    count: int
    weights: int
    rows: Mapping[str, Index]
    columns: Mapping[str, Index]
    groups: int = 1

    def __post_init__(self) -> None:
        """Refuse kinds nobody knows and more than one layer with columns."""
        if self.kind not in _KINDS or len(self.columns) != 1:
            raise InputError(f"site {self.name!r} must be one of {', '.join(_KINDS)} with one layer to solve")

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


def kept_slices(site: Site, kept: tuple[int, ...]) -> dict[str, tuple[int, Tensor]]:
    """For every layer of the site: the dimension to slice (0 rows, 1 columns) and what stays."""
    chosen = torch.tensor(kept, dtype=torch.long)
    if kept and kept[-1] >= site.count:
        raise InputError(f"cut of site {site.name!r} keeps units up to {kept[-1]}, but it has {site.count}")
    if not kept and site.kind == "ffn":
        raise InputError(f"cut of site {site.name!r} keeps no channel: remove the block instead")
    parts = {name: (0, index[chosen].flatten().sort().values) for name, index in site.rows.items()}
    return parts | {name: (1, index[chosen].flatten().sort().values) for name, index in site.columns.items()}

"""NetworkRecipe: what is removed from a network, by which score, and what is repaired."""

from dataclasses import asdict, dataclass
from typing import Any

from secateur.core.budget import Budget, parse_budget
from secateur.core.errors import InputError
from secateur.images.repair import Repair
from secateur.registry import check_name
from secateur.run.methods import CHANNEL_ALLOCATORS, CHANNEL_METHODS, CHANNEL_SITES, REPAIRS
from secateur.score.filters import ChannelScore

__all__ = ["NetworkRecipe"]


@dataclass(frozen=True, kw_only=True)
class NetworkRecipe:
    """How to prune a network that reads images.

    method: the score that chooses channels.
    budget: what may remain: 0.5-macs (half of the dense network's), 300M-macs, 2M-params, 8M-bytes, or 20-ms an image.
    allocator: uniform removes the same share at every site, global the lowest scores of all sites.
    repair: none, norms (batch norms), refit (and layers that read removed channels), or auto.
    sites: all, or inner (without channels that residual additions tie together).
    exempt: names of sites that are not pruned.
    multiple: channels are kept in multiples of this number.
    least: share of its channels that every site keeps.
    samples: images that calibrate.
    seed: fixes which images are drawn.
    damp: share of the Gram's mean diagonal added to it before least squares.
    """

    method: str = "refit"
    budget: str = "0.5-macs"
    allocator: str = "uniform"
    repair: str = "auto"
    sites: str = "all"
    exempt: tuple[str, ...] = ()
    multiple: int = 1
    least: float = 0.1
    samples: int = 128
    seed: int = 0
    damp: float = 0.1

    def __post_init__(self) -> None:
        """Refuse fields outside their range."""
        check_name("method", self.method, list(CHANNEL_METHODS))
        _ = self.limit
        for name, value, known in (
            ("repair", self.repair, REPAIRS),
            ("allocator", self.allocator, CHANNEL_ALLOCATORS),
            ("sites", self.sites, CHANNEL_SITES),
        ):
            check_name(name, value, known)
        if self.multiple < 1 or not 0 <= self.least <= 1 or self.samples < 1 or not self.damp >= 0:
            raise InputError("pruning needs multiple and samples of at least 1, least in 0..1 and damp of at least 0")

    @property
    def limit(self) -> Budget:
        """The budget; a limit up to 1 is a share of the dense network's."""
        return parse_budget(self.budget)

    @property
    def score(self) -> ChannelScore:
        """The score that chooses channels."""
        return CHANNEL_METHODS[self.method]()

    def repaired(self, *, pictures: bool) -> Repair | None:
        """What is repaired; None where nothing is. Raises InputError where that needs pictures and there are none."""
        kind = self.repair
        if kind == "auto":
            kind = "refit" if self.method == "refit" else "norms" if pictures else "none"
        if kind != "none" and not pictures:
            raise InputError(f"repair {kind} needs pictures: give --images DIR or .zip, or --repair none")
        return None if kind == "none" else Repair(refit=kind == "refit", damp=self.damp)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"exempt": list(self.exempt)}

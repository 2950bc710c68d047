"""DepruneRecipe: how much time a network may take, and which taps and channels go for it."""

from dataclasses import asdict, dataclass
from typing import Any

from secateur.core.budget import Budget, parse_budget
from secateur.core.errors import InputError
from secateur.images.repair import Repair
from secateur.registry import check_name
from secateur.run.methods import POINTWISE, TAPS

__all__ = ["DepruneRecipe"]


@dataclass(frozen=True, kw_only=True)
class DepruneRecipe:
    """How to prune depthwise-separable convolutions.

    budget: milliseconds a picture may take, such as 4-ms, or 0.6-ms for 0.6 of what the dense network takes; an exact
    knapsack over measured times then says what every layer loses. ratio: instead of a budget, the share of taps that
    every depthwise convolution loses; pointwise_ratio: the share of channels, the same where it is not given. halves:
    with a ratio and balanced taps, columns of 32 channels are rounded to multiples of 32 by the published rule (HSR).
    taps: run, balanced, channel or none. pointwise: expanded, projected or none. engine: blocked or torch, in which
    layers are timed. multiple: of channels that stay. least: share of channels and taps that every layer keeps.
    refit: solve what is kept by least squares. damp: added to the diagonal of its equations, as a share of its mean.
    seed: draws the pictures. samples: pictures that calibrate. measured: how many of them tell what
    a plan loses, and how many, the last, measure it; the same ones where there are too few.
    """

    budget: str | None = None
    ratio: float | None = None
    pointwise_ratio: float | None = None
    halves: bool = False
    taps: str = "run"
    pointwise: str = "expanded"
    engine: str = "blocked"
    multiple: int = 16
    least: float = 0.25
    refit: bool = True
    samples: int = 128
    measured: int = 64
    seed: int = 0
    damp: float = 0.1

    def __post_init__(self) -> None:
        """Refuse fields outside their range, and fields that do not go together."""
        check_name("taps", self.taps, TAPS)
        check_name("pointwise", self.pointwise, POINTWISE)
        check_name("engine", self.engine, ("blocked", "torch"))
        if (self.budget is None) == (self.ratio is None):
            raise InputError("deprune needs a budget in ms, such as 0.6-ms, or a ratio of taps and channels to remove")
        if self.budget is not None and (self.limit.unit != "ms" or self.taps not in ("run", "none")):
            raise InputError("deprune takes a budget in ms, such as 0.6-ms, and taps run or none with it")
        if self.taps == "none" and self.pointwise == "none":
            raise InputError("taps none and pointwise none leave nothing to remove")
        if min(self.multiple, self.samples, self.measured) < 1 or not 0 < self.least <= 1 or not self.damp >= 0:
            raise InputError(
                "deprune needs multiple, samples, measured of at least 1, least in 0..1, damp of 0 or more"
            )
        self._check_ratios()

    def _check_ratios(self) -> None:
        for share in (self.ratio, self.pointwise_ratio):
            if share is not None and not 0 <= share < 1:
                raise InputError(f"deprune takes ratios from 0 up to 1, and not {share}")
        if self.pointwise_ratio is not None and self.ratio is None:
            raise InputError("pointwise_ratio goes with ratio")
        if self.halves and (self.ratio is None or self.taps != "balanced"):
            raise InputError("halves rounds balanced taps of a ratio: give ratio, and taps balanced")

    @property
    def limit(self) -> Budget:
        """The budget; a limit up to 1 is a share of the dense network's."""
        return parse_budget(str(self.budget))

    @property
    def channels(self) -> float:
        """The share of channels that goes by a ratio."""
        return self.pointwise_ratio if self.pointwise_ratio is not None else float(self.ratio or 0)

    def repaired(self) -> Repair:
        """How the network is repaired after each step."""
        return Repair(refit=self.refit, choose=self.refit and self.pointwise == "expanded", damp=self.damp)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

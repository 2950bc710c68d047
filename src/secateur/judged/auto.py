"""The allocation whose masked model loses least on held-out text, of several; uniform is one of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from secateur.allocate.als import ALS
from secateur.allocate.incremental import Incremental
from secateur.allocate.knapsack import Knapsack
from secateur.allocate.owl import OWL
from secateur.allocate.problem import Allocator, CalibratedAllocator, Judge, PricingJudge, Problem
from secateur.allocate.unit_knapsack import UnitKnapsack
from secateur.calibrate.samples import BlockSamples
from secateur.calibrate.statistic import Gram
from secateur.core.allocation import Allocation
from secateur.core.errors import InputError, RatioError
from secateur.core.protocols import BlockView, Statistic
from secateur.judged.relinearised import Relinearised, improved, input_norms

__all__ = ["Auto", "AutoUnits"]

_REACHES = (0.1, 0.25, 0.4)  # of the knapsack of units
_CANDIDATES: Mapping[str, CalibratedAllocator] = {
    "owl": OWL(),
    "als": ALS(),
    "knapsack 0.15": Knapsack(reach=0.15),
    "knapsack 0.25": Knapsack(),
    "knapsack 0.25, down to 0": Knapsack(down=1.0),
}


@dataclass(frozen=True, kw_only=True)
class Auto:
    """Ours: uniform, OWL, ALS, the knapsack with three bounds, and a step from the best of them; the best one is taken.

    Formula: min over candidates r of L(W * m_r) on held-out windows, m_r Wanda's masks at the ratios r [ours]

    Every candidate is judged by Wanda's masks on held-out windows, so on those none is worse than uniform; where n of
    every m weights stay, by masks of that kind. steps and trust as in `Relinearised`. Where whole units go,
    `AutoUnits` takes its place.
    """

    steps: int = 1
    trust: float = 0.08

    def __post_init__(self) -> None:
        """Refuse fields outside their range."""
        if self.steps < 0 or not 0 < self.trust <= 1:
            raise InputError(f"auto needs steps of at least 0 and trust in 0..1, got {self.steps}, {self.trust}")

    def for_units(self, sites: str) -> "AutoUnits":
        """What takes its place where whole units go. sites: all, or ffn where heads stay."""
        return AutoUnits(sites=sites)

    @property
    def needs(self) -> tuple[type[Statistic], ...]:
        """What the candidates read."""
        return _needs(_CANDIDATES)

    def watch(self) -> BlockSamples:
        """What ALS compares blocks by."""
        return ALS().watch()

    def read(self, view: BlockView) -> dict[str, Any]:
        """What each candidate keeps, and the inputs' norms."""
        curves = Knapsack().read(view)
        kept = {name: curves if isinstance(own, Knapsack) else own.read(view) for name, own in _CANDIDATES.items()}
        return {"norms": input_norms(view), "kept": kept}

    def inputs(self, problem: Problem) -> Mapping[str, Tensor]:
        """The root mean square of every input, by layer name."""
        return Relinearised().inputs(problem)

    def allocate(self, problem: Problem, ratio: float) -> Allocation:
        """Ratios by layer."""
        if not isinstance(problem.judge, PricingJudge):
            return Knapsack().allocate(_kept(problem, "knapsack 0.25"), ratio)
        best, least = _best(problem, _CANDIDATES, problem.judge, ratio)
        return improved(problem, best, least, ratio, (self.steps, self.trust))[0]


@dataclass(frozen=True, kw_only=True)
class AutoUnits:
    """Ours: uniform, SlimGPT's incremental ratios, OWL, ALS and the knapsack of units with three bounds; the best one.

    Every candidate is judged on held-out windows by the model that SlimGPT makes of it on the dense model's Grams.
    sites: all, or ffn where heads stay.
    """

    sites: str = "all"

    @property
    def needs(self) -> tuple[type[Statistic], ...]:
        """What the candidates read."""
        return _needs(self._candidates())

    def watch(self) -> BlockSamples:
        """What ALS compares blocks by."""
        return ALS().watch()

    def read(self, view: BlockView) -> dict[str, Any]:
        """What each candidate keeps, and the Grams of the layers that lose columns."""
        curves = UnitKnapsack(sites=self.sites).read(view)
        kept = {
            name: curves if isinstance(own, UnitKnapsack) else own.read(view)
            for name, own in self._candidates().items()
            if isinstance(own, CalibratedAllocator)
        }
        return {"grams": {name: view.stats[name][Gram].value for name in view.ends}, "kept": kept}

    def inputs(self, problem: Problem) -> Mapping[str, Tensor]:
        """The Gram `[in, in]` of every last matrix, by layer name."""
        return {name: gram for block in problem.summaries.values() for name, gram in block["grams"].items()}

    def allocate(self, problem: Problem, ratio: float) -> Allocation:
        """Ratios by layer."""
        if problem.judge is None:
            return self._candidates()["unit-knapsack 0.25"].allocate(_kept(problem, "unit-knapsack 0.25"), ratio)
        return _best(problem, self._candidates(), problem.judge, ratio)[0]

    def _candidates(self) -> dict[str, Allocator]:
        knapsacks = {f"unit-knapsack {reach:g}": UnitKnapsack(reach=reach, sites=self.sites) for reach in _REACHES}
        return {"incremental": Incremental(), "owl": OWL(), "als": ALS(), **knapsacks}


def _needs(candidates: Mapping[str, Allocator]) -> tuple[type[Statistic], ...]:
    read = (own.needs for own in candidates.values() if isinstance(own, CalibratedAllocator))
    return tuple(dict.fromkeys(kind for needs in read for kind in needs))


def _best(
    problem: Problem, candidates: Mapping[str, Allocator], judge: Judge, ratio: float
) -> tuple[Allocation, float]:
    """The ratios of least held-out loss, uniform among them, and that loss. Candidates out of reach are left out."""
    best = Allocation(dict.fromkeys(problem.layers, ratio))
    least = judge.loss(best.ratios, "uniform")
    for name, own in candidates.items():
        try:
            found = _by_layer(own.allocate(_kept(problem, name), ratio), problem)
            loss = judge.loss(found.ratios, name)
        except RatioError:  # out of this one's reach
            continue
        if loss < least:
            best, least = found, loss
    return best, least


def _kept(problem: Problem, name: str) -> Problem:
    """The problem with what one candidate kept of every block."""
    kept = {block: own["kept"][name] for block, own in problem.summaries.items() if name in own["kept"]}
    return problem._replace(summaries=kept)


def _by_layer(found: Allocation, problem: Problem) -> Allocation:
    return Allocation(
        {
            layer: found.ratios.get(layer, found.ratios.get(block, 0.0))
            for block, layers in problem.blocks.items()
            for layer in layers
        }
    )

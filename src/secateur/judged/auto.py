"""The allocation whose masked model loses least on held-out text, of several; uniform is one of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from secateur.allocate.als import ALS
from secateur.allocate.knapsack import Knapsack
from secateur.allocate.owl import OWL
from secateur.allocate.problem import CalibratedAllocator, Problem
from secateur.calibrate.samples import BlockSamples
from secateur.core.allocation import Allocation
from secateur.core.errors import InputError, RatioError
from secateur.core.protocols import BlockView, Statistic
from secateur.judged.relinearised import Relinearised, improved, input_norms

__all__ = ["Auto"]

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

    Every candidate is judged by Wanda's masks on held-out windows, so on those none is worse than uniform. steps and
    trust as in `Relinearised`. Where whole units go nothing is judged, and the knapsack's ratios are taken.
    """

    steps: int = 1
    trust: float = 0.08

    def __post_init__(self) -> None:
        """Refuse fields outside their range."""
        if self.steps < 0 or not 0 < self.trust <= 1:
            raise InputError(f"auto needs steps of at least 0 and trust in 0..1, got {self.steps}, {self.trust}")

    @property
    def needs(self) -> tuple[type[Statistic], ...]:
        """What the candidates read."""
        return tuple(dict.fromkeys(kind for own in _CANDIDATES.values() for kind in own.needs))

    def watch(self) -> BlockSamples:
        """What ALS compares blocks by."""
        return ALS().watch()

    def read(self, view: BlockView) -> dict[str, Any]:
        """What each candidate keeps, and the inputs' norms."""
        curves = Knapsack().read(view)
        kept = {name: curves if isinstance(own, Knapsack) else own.read(view) for name, own in _CANDIDATES.items()}
        return {"norms": input_norms(view), "kept": kept}

    def norms(self, problem: Problem) -> Mapping[str, Tensor]:
        """The root mean square of every input, by layer name."""
        return Relinearised().norms(problem)

    def allocate(self, problem: Problem, ratio: float) -> Allocation:
        """Ratios by layer."""
        judge = problem.judge
        if judge is None:
            return Knapsack().allocate(_kept(problem, "knapsack 0.25"), ratio)
        best = Allocation(dict.fromkeys(problem.layers, ratio))
        least = judge.loss(best.ratios, "uniform")
        for name, own in _CANDIDATES.items():
            try:
                found = _by_layer(own.allocate(_kept(problem, name), ratio), problem)
            except RatioError:  # out of this one's reach
                continue
            loss = judge.loss(found.ratios, name)
            if loss < least:
                best, least = found, loss
        return improved(problem, best, least, ratio, (self.steps, self.trust))[0]


def _kept(problem: Problem, name: str) -> Problem:
    """The problem with what one candidate kept of every block."""
    return problem._replace(summaries={block: own["kept"][name] for block, own in problem.summaries.items()})


def _by_layer(found: Allocation, problem: Problem) -> Allocation:
    return Allocation(
        {
            layer: found.ratios.get(layer, found.ratios.get(block, 0.0))
            for block, layers in problem.blocks.items()
            for layer in layers
        }
    )

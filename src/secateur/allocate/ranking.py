"""One threshold over all weights of the model, read as ratios (global ranking)."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from secateur.allocate.problem import Problem
from secateur.core.allocation import Allocation
from secateur.core.errors import InputError, NumericalError, RatioError
from secateur.core.pattern import check_ratio
from secateur.core.protocols import BlockView, Score, Statistic
from secateur.score.wanda import Wanda

__all__ = ["Ranking"]

_LOW, _HIGH, _BINS = -30.0, 20.0, 20000  # natural logarithms of scores


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """One threshold over all weights.

    Formula: r_l = share of S_ij < t, one t for all matrices [global thresholds, Han et al. 2015]

    Scores are counted in bins 0.25% wide, so memory does not grow with the model. No matrix
    loses more than `most`. score: any whose numbers are comparable between matrices.
    """

    score: Score = field(default_factory=Wanda)
    most: float = 0.95

    def __post_init__(self) -> None:
        """Refuse a share outside its range."""
        if not 0 < self.most <= 1:
            raise InputError(f"ranking: most {self.most} should be in 0..1")

    @property
    def needs(self) -> tuple[type[Statistic], ...]:
        """What the score reads."""
        return self.score.needs

    def watch(self) -> None:
        """What passes between blocks is not looked at."""

    def read(self, view: BlockView) -> dict[str, Int[Tensor, " bins"]]:
        """How many scores fall into every bin, by matrix."""
        counts: dict[str, Tensor] = {}
        for name, weight in view.weights.items():
            # Logarithms, as scores of one model span many powers of ten; log(0) lands in the lowest bin.
            place = (self.score(weight, view.stats[name]).log() - _LOW) * (_BINS / (_HIGH - _LOW))
            if torch.isnan(place).any():
                raise NumericalError(f"{name}: scores hold NaN: check the weights and the calibration statistics")
            counts[name] = place.clamp(0, _BINS - 1).long().flatten().bincount(minlength=_BINS)
        return counts

    def allocate(self, problem: Problem, ratio: float) -> Allocation:
        """Ratios by layer; within the threshold's bin every matrix loses the same share.

        Raises RatioError on a target above `most`.
        """
        check_ratio(ratio)
        if ratio > self.most:
            raise RatioError(f"ratio {ratio:g} is above what ranking takes of a matrix, most {self.most:g}: raise it")
        counts = {name: bins for block in problem.summaries.values() for name, bins in block.items()}
        below = torch.stack(list(counts.values())).sum(dim=0).cumsum(0)  # [bins]: scores up to each bin, all matrices
        asked = ratio * float(below[-1])
        edge = min(int(torch.searchsorted(below, asked)), _BINS - 1)
        before = float(below[edge - 1]) if edge else 0.0
        share = (asked - before) / max(float(below[edge]) - before, 1.0)  # of the threshold's own bin
        ratios = {
            name: (float(bins[:edge].sum()) + share * float(bins[edge])) / float(bins.sum())
            for name, bins in counts.items()
        }
        return Allocation(ratios).balanced(problem.layers, ratio, 0.0, self.most)

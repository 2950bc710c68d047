"""Any solver, then conjugate gradients on its mask."""

from dataclasses import dataclass
from typing import ClassVar

from secateur.calibrate.statistic import Gram
from secateur.core.errors import InputError
from secateur.core.linalg import damped, layer_loss, refit_conjugate
from secateur.core.protocols import Pattern, Solution, Solver, Statistic, Stats
from secateur.core.shapes import Weight
from secateur.solve.bias_compensation import BiasCompensation
from secateur.solve.refit import Refit
from secateur.solve.shortgpt import ShortGPT

__all__ = ["Refitted"]


@dataclass(frozen=True, kw_only=True)
class Refitted:
    """A solver whose weights are fitted once more, on the mask that it chose.

    Formula: min_W' tr (W - W') (H + d I) (W - W')^T, W' zero outside the mask [conjugate gradients]

    Starts at the solver's weights, so the loss on the damped Gram never rises. damp: share of the Gram's mean diagonal.
    """

    solver: Solver
    damp: float = 0.03
    steps: int = 15

    name: ClassVar[str] = "refitted"

    def __post_init__(self) -> None:
        """Refuse solvers that leave no mask to fit on, or repair by a bias."""
        if isinstance(self.solver, Refit):
            raise InputError("method refit has solved the kept weights already: leave refit cg out")
        if isinstance(self.solver, ShortGPT):
            raise InputError("refit cg fits weights to a mask, and whole blocks have none: leave refit out")
        if isinstance(self.solver, BiasCompensation):
            raise InputError("refit cg repairs weights, and this method repairs by a bias: take one of the two")

    @property
    def needs(self) -> tuple[type[Statistic], ...]:
        """What the solver reads, and the Gram."""
        return tuple(dict.fromkeys((*self.solver.needs, Gram)))

    def solve(self, weight: Weight, stats: Stats, pattern: Pattern, ratio: float) -> Solution:
        """Solve, then refit. Raises what the solver does."""
        found = self.solver.solve(weight, stats, pattern, ratio)
        gram = stats[Gram].value
        wide = weight.to(gram.dtype)
        fitted = refit_conjugate(wide, found.keep, damped(gram, self.damp), self.steps, start=found.weight)
        fitted = fitted.to(weight.dtype)
        return found._replace(weight=fitted, loss=layer_loss(weight, fitted, gram))

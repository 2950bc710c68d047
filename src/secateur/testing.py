"""Laws that every score and solver must obey; for our tests and for plug-ins.

>>> from secateur.solve.sparsegpt import SparseGPT
>>> check_solver(SparseGPT())
"""

import torch
from torch import Tensor

from secateur.calibrate.gradient import Gradient
from secateur.calibrate.moments import Moments
from secateur.calibrate.statistic import Gathered, Gram, InputRMS, gather
from secateur.core.errors import PatternError
from secateur.core.linalg import layer_loss
from secateur.core.pattern import NM, Columns, PerRow, Unstructured
from secateur.core.protocols import Pattern, Score, Solver
from secateur.core.seed import generator

__all__ = ["check_score", "check_solver", "problem", "summary"]

_STATISTICS = (InputRMS, Gram, Moments)
_CASES: tuple[tuple[Pattern, float], ...] = (
    (PerRow(), 0.5),
    (Unstructured(), 0.5),
    (Unstructured(), 0.3),
    (Columns(), 0.5),
    (Columns(unit=4), 0.25),
    (Columns(unit=2, groups=4), 0.5),
    (PerRow(), 0.7),
    (NM(), 0.5),
    (NM(n=3, m=4), 0.25),
    (NM(n=4, m=8), 0.5),
)


def problem(rows: int, columns: int, *, seed: int = 0, tokens: int = 256) -> tuple[Tensor, Tensor]:
    """A random weight `[rows, columns]` and correlated inputs `[tokens, columns]`."""
    stream = generator(seed, "problem", rows, columns)
    weight = torch.randn(rows, columns, generator=stream)
    mixing = torch.randn(columns, columns, generator=stream) / columns**0.5 + 0.5 * torch.eye(columns)
    return weight, torch.randn(tokens, columns, generator=stream) @ mixing


def summary(weight: Tensor, x: Tensor) -> Gathered:
    """Every statistic of a layer; the gradient is that of half the mean squared output."""
    stats = gather(_STATISTICS, x)
    gradient = weight @ stats[Gram].value / 2
    return Gathered({**stats.parts, Gradient: Gradient(gradient, samples=1)})


def _same(a: Tensor, b: Tensor, law: str) -> None:
    if not torch.equal(a, b):
        raise AssertionError(law)


def check_score(score: Score) -> None:
    """Shape and finiteness; scaling the inputs leaves the ranking; permuting outputs permutes it."""
    weight, x = problem(6, 16)
    stats = summary(weight, x)
    values = score(weight, stats)
    if values.shape != weight.shape or not torch.isfinite(values).all():
        raise AssertionError("a score is finite and has the weight's shape")
    ranks = values.flatten().argsort(stable=True)
    scaled = score(weight, summary(weight, x * 4)).flatten().argsort(stable=True)
    _same(ranks, scaled, "scaling every input by the same number leaves the ranking of weights")
    order = torch.tensor([1, 3, 5, 0, 4, 2])
    if not torch.allclose(score(weight[order], summary(weight[order], x)), values[order], rtol=1e-5):
        raise AssertionError("permuting outputs permutes the scores")


def check_solver(solver: Solver) -> None:
    """Every law of a solver, over patterns and ratios, on small random problems."""
    weight, x = problem(6, 32)
    stats = summary(weight, x)
    cases = [(pattern, ratio) for pattern, ratio in _CASES if _makes(solver, pattern, ratio)]
    if not cases:
        raise AssertionError(f"{solver.name} makes none of the known patterns")
    for pattern, ratio in cases:
        _check_solution(solver, weight, stats, pattern, ratio)
    _check_ends(solver, weight, stats, cases[0][0])
    _check_symmetry(solver, weight, x, cases[0][0])
    _check_scale(solver, weight, x, cases[0][0])


def _makes(solver: Solver, pattern: Pattern, ratio: float) -> bool:
    """Whether the solver takes this pattern; a refusal is a PatternError."""
    weight, x = problem(2, 32)
    try:
        solver.solve(weight, summary(weight, x), pattern, ratio)
    except PatternError:
        return False
    return True


def _check_solution(solver: Solver, weight: Tensor, stats: Gathered, pattern: Pattern, ratio: float) -> None:
    before = weight.clone()
    solution = solver.solve(weight, stats, pattern, ratio)
    where = f"{solver.name} under {pattern} at {ratio}"
    _same(weight, before, f"{where}: the caller's weight is not changed")
    # A tensor made without a device would be on meta, which mixes with no other.
    with torch.device("meta"):
        again = solver.solve(weight, stats, pattern, ratio)
    _same(again.weight, solution.weight, f"{where}: everything is computed where the weight is")
    removed = int((~solution.keep).sum())
    expected = (
        round(ratio * weight.numel())
        if not isinstance(pattern, PerRow)
        else len(weight) * round(ratio * weight.shape[1])
    )
    if removed != expected:
        raise AssertionError(f"{where}: {removed} removed, {expected} asked")
    if isinstance(pattern, NM) and not (solution.keep.reshape(-1, pattern.m).sum(1) == pattern.n).all():
        raise AssertionError(f"{where}: every group keeps exactly n of m")
    if solution.weight[~solution.keep].any():
        raise AssertionError(f"{where}: what is not kept is zero")
    if solution.loss is not None:
        true = layer_loss(weight, solution.weight, stats[Gram].value)
        if abs(solution.loss - true) > 1e-3 * max(true, 1e-6):
            raise AssertionError(f"{where}: loss {solution.loss} reported, {true} recomputed")


def _check_ends(solver: Solver, weight: Tensor, stats: Gathered, pattern: Pattern) -> None:
    nothing = solver.solve(weight, stats, pattern, 0.0)
    if not nothing.keep.all() or not torch.equal(nothing.weight, weight):
        raise AssertionError(f"{solver.name}: ratio 0 changes nothing")
    everything = solver.solve(weight, stats, pattern, 1.0)
    if everything.keep.any() or everything.weight.any():
        raise AssertionError(f"{solver.name}: ratio 1 leaves nothing")


def _check_symmetry(solver: Solver, weight: Tensor, x: Tensor, pattern: Pattern) -> None:
    stats = summary(weight, x)
    order = torch.tensor([1, 3, 5, 0, 4, 2])
    straight = solver.solve(weight, stats, pattern, 0.5)
    permuted = solver.solve(weight[order], summary(weight[order], x), pattern, 0.5)
    _same(permuted.keep, straight.keep[order], f"{solver.name}: permuting outputs permutes the mask")


def _check_scale(solver: Solver, weight: Tensor, x: Tensor, pattern: Pattern) -> None:
    """Powers of two, about 1e-4 to 1e4: nothing is rounded differently; a quarter of the inputs is dead."""
    for inputs in (x, x * (torch.arange(x.shape[1]) % 4 != 1)):
        straight = solver.solve(weight, summary(weight, inputs), pattern, 0.5)
        for scale in (2.0**-13, 4.0, 2.0**13):
            scaled = solver.solve(weight, summary(weight, inputs * scale), pattern, 0.5)
            _same(scaled.keep, straight.keep, f"{solver.name}: scaling every input leaves the mask")
            if not torch.allclose(scaled.weight, straight.weight, rtol=1e-4, atol=1e-5):
                raise AssertionError(f"{solver.name}: scaling every input leaves the weights")

import itertools

import pytest
import torch

from secateur.calibrate.statistic import Gram
from secateur.core.errors import InputError
from secateur.core.linalg import damped, layer_loss, refit_rows
from secateur.core.pattern import NM, Columns, PerRow, Unstructured
from secateur.solve.admm import ADMM
from secateur.solve.sparsegpt import SparseGPT
from secateur.testing import problem, summary

PATTERNS = [Unstructured(), PerRow(), NM(), NM(n=4, m=8), Columns(unit=4)]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("seed", range(3))
def test_no_loss_is_above_sparsegpts_on_the_same_gram(pattern, seed):
    weight, x = problem(16, 32, seed=seed)
    stats = summary(weight, x)
    solved = ADMM(damp=0.01).solve(weight, stats, pattern, 0.5)
    known = SparseGPT(damp=0.01).solve(weight, stats, pattern, 0.5)
    matrix = damped(stats[Gram].value, 0.01)
    assert layer_loss(weight, solved.weight, matrix) <= layer_loss(weight, known.weight, matrix) * (1 + 1e-5)
    assert solved.loss == pytest.approx(layer_loss(weight, solved.weight, stats[Gram].value), rel=1e-5)


@pytest.mark.parametrize("start", ["sparsegpt", "dense"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_pattern_is_met_exactly(pattern, start):
    weight, x = problem(16, 32)
    solved = ADMM(start=start).solve(weight, summary(weight, x), pattern, 0.5)
    assert torch.equal(pattern.keep(solved.keep.float(), 0.5), solved.keep)
    assert int(solved.keep.sum()) == solved.keep.numel() // 2
    assert not solved.weight[~solved.keep].any()


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_nothing_and_everything_is_removed(ratio):
    weight, x = problem(4, 8)
    solved = ADMM().solve(weight, summary(weight, x), Unstructured(), ratio)
    assert torch.allclose(solved.weight, weight * (1 - ratio), atol=1e-5)
    assert bool(solved.keep.all()) == (ratio == 0)


def test_independent_inputs_leave_magnitude_times_norm():
    weight, _ = problem(6, 8)
    x = torch.diag(torch.arange(1.0, 9.0))
    solved = ADMM(damp=0.0).solve(weight, summary(weight, x), Unstructured(), 0.5)
    score = weight * x.diagonal()
    assert torch.equal(solved.keep, Unstructured().keep(score.square(), 0.5))
    assert torch.allclose(solved.weight, weight * solved.keep, atol=1e-5)


def test_the_weights_are_the_exact_refit_of_their_mask():
    weight, x = problem(8, 16)
    stats = summary(weight, x)
    solved = ADMM(refit=40).solve(weight, stats, Unstructured(), 0.5)
    exact = refit_rows(weight, solved.keep, damped(stats[Gram].value, 0.03))
    assert torch.allclose(solved.weight, exact, atol=1e-4)


def test_it_is_near_the_best_of_all_masks():
    ours, best, other = [], [], []
    for seed in range(40):
        weight, x = problem(1, 6, tokens=24, seed=seed)
        stats = summary(weight, x)
        gram = stats[Gram].value
        masks = [torch.tensor([[i in kept for i in range(6)]]) for kept in itertools.combinations(range(6), 3)]
        losses = [layer_loss(weight, refit_rows(weight, mask, gram), gram) for mask in masks]
        ours.append(ADMM(damp=0.0, refit=20).solve(weight, stats, PerRow(), 0.5).loss)
        other.append(SparseGPT(damp=0.0).solve(weight, stats, PerRow(), 0.5).loss)
        best.append(min(losses))
        assert ours[-1] >= best[-1] * (1 - 1e-3)
    assert sum(ours) <= 1.5 * sum(best) and sum(ours) < 0.3 * sum(other)


def test_dead_inputs_go_first_and_are_kept_as_they_are():
    weight, x = problem(4, 8)
    x[:, :4] = 0
    gone = ADMM().solve(weight, summary(weight, x), PerRow(), 0.5)
    assert not gone.keep[:, :4].any() and torch.allclose(gone.weight[:, 4:], weight[:, 4:], atol=1e-4)
    few = ADMM().solve(weight, summary(weight, x), PerRow(), 0.25)
    kept = few.keep[:, :4]
    assert torch.allclose(few.weight[:, :4][kept], weight[:, :4][kept], atol=1e-5)


def test_inputs_that_are_all_zero_and_ties():
    weight = torch.ones(4, 8)
    solved = ADMM().solve(weight, summary(weight, torch.zeros(5, 8)), Unstructured(), 0.5)
    assert int(solved.keep.sum()) == 16 and torch.isfinite(solved.weight).all()
    tied = ADMM().solve(weight, summary(weight, torch.ones(9, 8)), NM(), 0.5)
    assert int(tied.keep.sum()) == 16 and tied.loss < 0.1


def test_settings_that_solve_nothing_are_refused():
    for fields in ({"damp": -0.1}, {"steps": 0}, {"refit": -1}, {"start": "wanda"}):
        with pytest.raises(InputError):
            ADMM(**fields)

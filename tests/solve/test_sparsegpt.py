import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.calibrate.statistic import Gram, InputRMS, gather
from secateur.core.errors import NumericalError
from secateur.core.linalg import damped, layer_loss
from secateur.core.pattern import NM, PerRow, Unstructured
from secateur.score.magnitude import Magnitude
from secateur.score.wanda import Wanda
from secateur.solve.mask_only import MaskOnly
from secateur.solve.sparsegpt import SparseGPT
from secateur.testing import problem


def plain_loops(weight, gram, pattern, ratio, block, damp=0.01):
    """Algorithm 1 in float64, one row, one column, one weight at a time."""
    w, h = weight.numpy().astype(float), damped(gram, damp).numpy().astype(float)
    rows, width = w.shape
    u = np.linalg.cholesky(np.linalg.inv(h)).T  # upper, U^T U = H^-1
    keep = np.ones_like(w, dtype=bool)
    for j in range(width):
        if j % block == 0:
            end = min(j + block, width)
            score = torch.tensor((w[:, j:end] / np.diag(u)[j:end]) ** 2).float()
            keep[:, j:end] = pattern.keep_window(score, ratio, j).numpy()
        for i in range(rows):
            if not keep[i, j]:
                error = w[i, j] / u[j, j]
                for k in range(j, width):
                    w[i, k] -= error * u[j, k]
                w[i, j] = 0.0
    return w, keep


@pytest.mark.parametrize(
    ("pattern", "ratio", "mask_block"),
    [(Unstructured(), 0.4, 16), (PerRow(), 0.5, 16), (NM(), 0.5, 4), (NM(n=1, m=3), 2 / 3, 3)],
)
def test_equals_the_algorithm_in_plain_loops(pattern, ratio, mask_block):
    weight, x = problem(5, 48)
    stats = gather([Gram], x)
    solution = SparseGPT(block=16).solve(weight, stats, pattern, ratio)
    expected, keep = plain_loops(weight, stats[Gram].value, pattern, ratio, mask_block)
    np.testing.assert_array_equal(solution.keep.numpy(), keep)
    np.testing.assert_allclose(solution.weight.numpy(), expected, atol=2e-4)


@given(st.integers(1, 70), st.integers(1, 6), st.floats(0, 1), st.sampled_from([1, 5, 16, 128]))
def test_any_width_and_block_meets_the_ratio(width, rows, ratio, block):
    weight, x = problem(rows, width)
    solution = SparseGPT(block=block).solve(weight, gather([Gram], x), Unstructured(), ratio)
    assert int((~solution.keep).sum()) == round(ratio * weight.numel())
    assert not solution.weight[~solution.keep].any()


def test_update_block_does_not_change_n_m_results():
    weight, x = problem(6, 64)
    stats = gather([Gram], x)
    results = [SparseGPT(block=block).solve(weight, stats, NM(), 0.5) for block in (4, 16, 40, 64, 128)]
    assert all(torch.equal(result.keep, results[0].keep) for result in results)
    assert all(torch.allclose(result.weight, results[0].weight, atol=1e-4) for result in results)


def test_beats_masking_alone_and_wanda():
    weight, x = problem(32, 64)
    stats = gather((Gram, InputRMS), x)
    for pattern in (Unstructured(), PerRow(), NM()):
        swept = SparseGPT().solve(weight, stats, pattern, 0.5)
        masked = torch.where(swept.keep, weight, 0)
        gram = stats[Gram].value
        for other in (
            masked,
            *(MaskOnly(score=score).solve(weight, stats, pattern, 0.5).weight for score in (Wanda(), Magnitude())),
        ):
            assert swept.loss < layer_loss(weight, other, gram)


def test_uncorrelated_equal_inputs_make_it_magnitude_by_block():
    weight, _ = problem(6, 32)
    gram = gather([Gram], torch.eye(32))
    solution = SparseGPT(block=8).solve(weight, gram, Unstructured(), 0.5)
    for at in range(0, 32, 8):
        part = slice(at, at + 8)
        assert torch.equal(solution.keep[:, part], Unstructured().keep_window(weight[:, part].abs(), 0.5, at))
    assert torch.allclose(solution.weight[solution.keep], weight[solution.keep])


def test_dead_inputs_go_first_and_are_not_repaired():
    weight, x = problem(6, 32)
    x[:, [3, 9]] = 0
    solution = SparseGPT().solve(weight, gather([Gram], x), PerRow(), 0.25)
    assert not solution.keep[:, [3, 9]].any()


def test_a_gram_of_too_few_tokens_needs_the_damp():
    weight, x = problem(6, 32, tokens=4)
    assert torch.isfinite(SparseGPT().solve(weight, gather([Gram], x), PerRow(), 0.5).weight).all()
    with pytest.raises(NumericalError, match="singular"):
        SparseGPT(damp=0.0).solve(weight, gather([Gram], x), PerRow(), 0.5)


@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1.0, 1e2, 1e4])
def test_dead_inputs_change_nothing_for_the_live_ones_at_any_scale(scale):
    weight, x = problem(16, 48)
    live = torch.arange(48) % 3 != 0
    solver, pattern = SparseGPT(), Unstructured()
    alone = solver.solve(weight[:, live], gather([Gram], x[:, live]), pattern, 0.25)
    stats = gather([Gram], scale * x * live)
    both = solver.solve(weight, stats, pattern, 0.5)  # a third of the inputs is dead and goes first
    assert not both.keep[:, ~live].any()
    assert torch.equal(both.keep[:, live], alone.keep)
    assert both.loss == pytest.approx(scale**2 * alone.loss, rel=1e-3)

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.core.errors import NumericalError
from secateur.core.linalg import damped, inverse_factor, layer_loss, refit_rows


def gram_of(width, seed=0, tokens=400):
    x = torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x, 2 / tokens * x.T @ x


@given(st.integers(1, 300))
def test_factor_is_upper_and_rebuilds_the_inverse(width):
    gram = gram_of(width, tokens=2 * width)[1]
    factor = inverse_factor(gram)
    assert not factor.tril(-1).any()
    assert torch.allclose(factor.T @ factor @ gram, torch.eye(width, dtype=torch.float64), atol=1e-6)


def test_factor_diagonal_is_the_conditional_inverse():
    gram = gram_of(7)[1]
    factor = inverse_factor(gram)
    for i in range(7):
        assert factor[i, i] ** 2 == pytest.approx(float(torch.linalg.inv(gram[i:, i:])[0, 0]))


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_damping_is_a_share_of_the_live_diagonals_at_any_scale(scale):
    gram = scale**2 * torch.diag(torch.tensor([2.0, 0.0, 4.0, 0.0]))
    before = gram.clone()
    found = damped(gram, 0.1).diagonal() / scale**2
    assert found.tolist() == pytest.approx([2.3, 3.3, 4.3, 3.3])  # the live mean is 3
    assert torch.equal(gram, before)
    assert damped(torch.zeros(2, 2), 0.01).diagonal().tolist() == pytest.approx([1.01, 1.01])


def test_a_singular_gram_is_an_error():
    with pytest.raises(NumericalError, match="singular"):
        inverse_factor(torch.ones(3, 3))
    with pytest.raises(NumericalError, match="singular"):
        refit_rows(torch.ones(1, 3), torch.ones(1, 3, dtype=torch.bool), torch.ones(3, 3))


def test_loss_is_the_output_error_per_token():
    x, gram = gram_of(5)
    before, after = torch.randn(3, 5).double(), torch.randn(3, 5).double()
    assert layer_loss(before, after, gram) == pytest.approx(float(((before - after) @ x.T).square().sum() / len(x)))


def test_refit_equals_least_squares_of_every_row():
    x, gram = gram_of(9)
    weight = torch.randn(6, 9).double()
    keep = torch.rand(6, 9) > 0.4
    keep[2] = False
    fitted = refit_rows(weight, keep, gram)
    for row, kept in enumerate(keep):
        expected = torch.zeros(9, dtype=torch.float64)
        if kept.any():
            expected[kept] = torch.linalg.lstsq(x[:, kept], x @ weight[row]).solution
        assert torch.allclose(fitted[row], expected, atol=1e-8)


def test_no_mask_and_weights_beat_the_best_refit_by_brute_force():
    _, gram = gram_of(6)
    weight = torch.randn(1, 6).double()
    losses = {}
    for kept in itertools.combinations(range(6), 3):
        keep = torch.zeros(1, 6, dtype=torch.bool)
        keep[0, list(kept)] = True
        fitted = refit_rows(weight, keep, gram)
        losses[kept] = layer_loss(weight, fitted, gram)
        for _ in range(5):
            other = torch.where(keep, fitted + 0.1 * torch.randn(1, 6), 0)
            assert layer_loss(weight, other, gram) >= losses[kept]
    assert min(losses.values()) > 0


def test_refit_of_nothing_is_zero():
    assert not refit_rows(torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool), torch.eye(3)).any()

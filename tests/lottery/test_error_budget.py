from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.core.errors import InputError
from secateur.lottery.error_budget import NORMS, LayerNorm, norm_of, propagate, split

SIZES = st.floats(0.1, 20.0)


@given(st.lists(SIZES, min_size=1, max_size=5), st.floats(1e-6, 1.0), st.floats(0.1, 10.0))
def test_without_biases_the_share_is_the_closed_form(sizes, eps, radius):
    layers = [LayerNorm(size, 0.0, size) for size in sizes]
    product = radius * float(np.prod(sizes))
    share = (1 + eps / product) ** (1 / len(sizes)) - 1
    for norm in NORMS.values():
        errors = split(layers, eps, radius, norm)
        assert errors == pytest.approx([share * size for size in sizes], rel=1e-6)
        assert propagate(layers, errors, radius, norm) == pytest.approx(eps, rel=1e-6)
        grown = float(np.prod(np.array(sizes) + errors)) - float(np.prod(sizes))
        assert propagate(layers, errors, radius, norm) == pytest.approx(radius * grown, rel=1e-4, abs=1e-12)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_no_network_errs_more_than_the_bound(name, depth):
    rng, norm = np.random.default_rng(depth), NORMS[name]
    sizes = [5, 7, 4, 6, 3][: depth + 1]
    weights = [rng.normal(size=pair[::-1]) for pair in pairwise(sizes)]
    biases = [rng.normal(size=len(weight)) for weight in weights]
    layers = [norm.layer(*layer) for layer in zip(weights, biases, strict=True)]
    bad = [rng.normal(size=(len(weight), weight.shape[1] + 1)) * 0.01 for weight in weights]
    bound = propagate(layers, [norm.matrix(error) for error in bad], 2.0, norm)
    x = rng.normal(size=(2000, 5))
    x *= 2.0 / norm.vectors(x)[:, None]

    def run(rows, wrong):
        for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            rows = (np.maximum(rows, 0) if number else rows) @ (weight + wrong * bad[number][:, :-1]).T
            rows = rows + bias + wrong * bad[number][:, -1]
        return rows

    errors = norm.vectors(run(x, 1.0) - run(x, 0.0))
    assert 0.003 * bound < errors.max() <= bound


@pytest.mark.parametrize("name", NORMS)
def test_single_weights_within_their_share_keep_the_matrix_within_its_error(name):
    rng, norm = np.random.default_rng(0), NORMS[name]
    live = rng.random((6, 9)) < 0.7
    share = norm.share(live)
    for _ in range(50):
        assert norm.matrix(np.where(live, rng.choice([-share, share], size=live.shape), 0.0)) <= 1 + 1e-12
    assert norm.matrix(np.where(live, share, 0.0)) > 0.8


def test_matrix_norms_are_those_of_their_vectors():
    rng = np.random.default_rng(0)
    weight, x = rng.normal(size=(4, 6)), rng.normal(size=(500, 6))
    for norm in NORMS.values():
        stretched = norm.vectors(x @ weight.T) / norm.vectors(x)
        assert 0.4 * norm.matrix(weight) < stretched.max() <= norm.matrix(weight)
        joined = norm.vectors(np.hstack([x, np.ones((500, 1))]))
        assert joined == pytest.approx([norm.joined(float(size)) for size in norm.vectors(x)])


def test_a_layer_of_zeros_needs_nothing_and_passes_no_error_on():
    layers, norm = [LayerNorm(2.0, 1.0, 2.2), LayerNorm(0.0, 1.0, 1.0), LayerNorm(1.0, 0.0, 1.0)], NORMS["spectral"]
    assert propagate(layers, [0.1, 0.0, 0.0], 1.0, norm) == 0.0
    assert split([LayerNorm(0.0, 0.0, 0.0)], 0.1, 1.0, norm) == [0.0]


@pytest.mark.parametrize("eps", [0.0, -1.0, float("nan"), float("inf"), 1e-14])
def test_an_error_that_cannot_be_asked_for_is_refused(eps):
    with pytest.raises(InputError, match="eps"):
        split([LayerNorm(1.0, 0.0, 1.0)], eps, 1.0, NORMS["spectral"])
    with pytest.raises(InputError, match="there is spectral and row-sum"):
        norm_of("frobenius")


def test_a_chain_of_single_weights_reaches_the_bound():
    weights, errors, norm = [2.0, 3.0, 0.5], [0.1, 0.2, 0.05], NORMS["spectral"]
    bound = propagate([LayerNorm(weight, 0.0, weight) for weight in weights], errors, 1.5, norm)
    assert bound == pytest.approx(1.5 * (2.1 * 3.2 * 0.55 - 2.0 * 3.0 * 0.5))

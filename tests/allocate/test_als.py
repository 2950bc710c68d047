import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from secateur.allocate.als import ALS, Features, correlation, fill, importance, orthogonality
from secateur.allocate.problem import Problem
from secateur.core.errors import InputError, RatioError


def draw(tokens, width, seed):
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("tokens", "width"), [(50, 8), (8, 50)])
def test_orthogonality_is_one_for_rotations_and_direct_in_both_forms(tokens, width):
    a, b = draw(tokens, width, 0), draw(tokens, width // 2, 1)

    def of(y):
        return Features.of(y, rows=False)

    turn = torch.linalg.qr(draw(width, width, 2)).Q
    assert orthogonality(of(a), of(3 * a @ turn)) == pytest.approx(1, abs=1e-5)
    direct = (b.T @ a).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm())
    assert orthogonality(of(a), of(b)) == pytest.approx(float(direct), rel=1e-5)
    assert orthogonality(of(b), of(a)) == pytest.approx(float(direct), rel=1e-5) and 0 <= direct <= 1
    apart = torch.zeros(tokens, 2)
    apart[0, 0] = 1
    rest = a.clone()
    rest[0] = 0
    assert orthogonality(of(apart), of(rest)) == pytest.approx(0, abs=1e-6)


def test_importance_falls_with_redundancy_and_stays_finite():
    matrix = np.full((200, 200), 1e-3) + np.eye(200) * (1 - 1e-3)
    matrix[0, :] = matrix[:, 0] = 0.9
    found = importance(matrix)
    assert np.isfinite(found).all() and found.max() == 1 and found[0] == found.min()
    small = correlation([Features.of(draw(40, 5, seed)) for seed in range(4)])
    rho = small.sum(axis=1) - 1
    direct = np.exp(-rho / small.mean(axis=1))
    assert importance(small) == pytest.approx(direct / direct.max())


@given(
    st.lists(st.tuples(st.floats(0.01, 1), st.integers(1, 50)), min_size=1, max_size=12),
    st.floats(0.31, 0.69),
)
def test_the_program_meets_the_budget_within_bounds_and_is_the_greedy_knapsack(parts, density):
    worth, sizes = [part[0] for part in parts], [part[1] for part in parts]
    found = fill(worth, sizes, density, (0.3, 0.7), 1e-9)
    total = sum(sizes)
    assert sum(n * d for n, d in zip(sizes, found, strict=True)) == pytest.approx(density * total, rel=1e-6)
    assert all(0.3 - 1e-9 <= d <= 0.7 + 1e-9 for d in found)
    room, greedy = density * total - 0.3 * total, [0.3] * len(sizes)
    for i in sorted(range(len(sizes)), key=lambda i: -worth[i] / sizes[i]):
        more = min(0.4, room / sizes[i])
        greedy[i], room = greedy[i] + more, room - more * sizes[i]
    assert np.dot(worth, found) == pytest.approx(np.dot(worth, greedy), abs=1e-6)


def test_read_literally_the_program_puts_every_ratio_at_its_upper_bound():
    worth, sizes = np.array([0.5, 0.2, 0.9]), np.array([1.0, 2.0, 3.0])
    retained = (1 - 0.5) * sizes.sum()  # sum n (1 - q) <= budget, with sparsities q
    literal = linprog(-worth, A_ub=-sizes[None], b_ub=[retained - sizes.sum()], bounds=[(0.3, 0.7)] * 3)
    assert literal.x == pytest.approx([0.7] * 3)


def test_a_layer_that_repeats_another_loses_at_least_what_an_independent_one_does():
    same = draw(300, 6, 0)
    features = {"a": same, "b": draw(300, 6, 1), "c": same @ torch.linalg.qr(draw(6, 6, 2)).Q}
    blocks = {name: {f"{name}.w": 10} for name in features}
    own = importance(correlation([Features.of(y) for y in features.values()]))
    assert own[1] == own.max() and own[0] == pytest.approx(own[2])
    summaries = {name: (Features.of(y), {}) for name, y in features.items()}
    for method in (ALS(), ALS(smooth=True), ALS(reach=0.1)):
        found = method.allocate(Problem(blocks, summaries), 0.5)
        assert found.mean(dict.fromkeys(features, 10)) == pytest.approx(0.5, abs=1e-9)
        assert found.ratios["a"] >= found.ratios["b"] - 1e-12


def test_bounds_that_cannot_hold_the_target_are_named():
    with pytest.raises(RatioError, match=r"0\.3\.\.0\.7"):
        fill([1.0], [1], 0.1, (0.3, 0.7), 0.005)
    with pytest.raises(InputError, match="reach"):
        ALS(reach=3.0)

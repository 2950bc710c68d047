import pytest
import torch

from secateur.allocate.alpha import AlphaPruning, tail_exponent
from secateur.allocate.problem import Problem
from secateur.core.errors import InputError
from secateur.testing import problem


def test_hills_estimate_finds_the_exponent_of_a_power_law():
    alpha = 2.5
    values = (torch.arange(1, 401).double() / 400).pow(-1 / (alpha - 1))  # quantiles of that Pareto law
    left = torch.linalg.qr(torch.randn(400, 400, dtype=torch.float64)).Q
    assert tail_exponent((left * values.sqrt()).float()) == pytest.approx(alpha, rel=0.05)


def test_rotation_and_scale_do_not_matter():
    weight, _ = problem(12, 20)
    turned = torch.linalg.qr(torch.randn(12, 12)).Q @ weight
    assert tail_exponent(3 * turned) == pytest.approx(tail_exponent(weight), rel=1e-3)
    assert tail_exponent(weight.T.contiguous()) == pytest.approx(tail_exponent(weight), rel=1e-6)


def test_lighter_tails_lose_more():
    blocks = {name: {f"{name}.w": 4} for name in "abc"}
    found = AlphaPruning().allocate(Problem(blocks, {"a": 3.0, "b": 2.0, "c": 2.5}), 0.5).ratios
    assert found == pytest.approx({"a": 0.6, "b": 0.4, "c": 0.5})
    with pytest.raises(InputError, match="reach"):
        AlphaPruning(reach=2.0)

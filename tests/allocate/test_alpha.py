import math

import pytest
import torch

from secateur.allocate.alpha import AlphaPruning, tail_exponent
from secateur.allocate.problem import Problem
from secateur.core.errors import InputError
from secateur.core.protocols import BlockView
from secateur.testing import problem


def test_hills_estimate_finds_the_exponent_of_a_power_law():
    alpha = 2.5
    values = (torch.arange(1, 401).double() / 400).pow(-1 / (alpha - 1))  # quantiles of that Pareto law
    left = torch.linalg.qr(torch.randn(400, 400, dtype=torch.float64)).Q
    for tail, near in (("half", 0.05), ("peak", 0.15)):
        assert tail_exponent((left * values.sqrt()).float(), tail) == pytest.approx(alpha, rel=near)


def test_the_peak_is_where_most_eigenvalues_are():
    values = torch.cat([torch.full((30,), 1.0), torch.tensor([10.0, 100.0, 1000.0])]).double()
    values[:30] += torch.linspace(0, 1e-3, 30)
    weight = torch.diag(values.sqrt()).float()
    expected = 1 + 32 / sum(math.log(float(value) / 1.0) for value in values if value > values[:30].min())
    assert tail_exponent(weight, "peak") == pytest.approx(expected, rel=1e-2)
    assert tail_exponent(torch.eye(4)) == math.inf == tail_exponent(torch.zeros(3, 5))


def test_rotation_and_scale_do_not_matter():
    weight, _ = problem(12, 20)
    turned = torch.linalg.qr(torch.randn(12, 12)).Q @ weight
    assert tail_exponent(3 * turned) == pytest.approx(tail_exponent(weight), rel=1e-3)
    assert tail_exponent(weight.T.contiguous()) == pytest.approx(tail_exponent(weight), rel=1e-6)


def test_lighter_tails_lose_more():
    blocks = {name: {f"{name}.w": 4} for name in "abc"}
    found = AlphaPruning().allocate(Problem(blocks, {"a": 3.0, "b": 2.0, "c": 2.5}), 0.5).ratios
    assert found == pytest.approx({"a": 0.65, "b": 0.35, "c": 0.5})
    with pytest.raises(InputError, match="reach"):
        AlphaPruning(reach=2.0)
    assert AlphaPruning().allocate(Problem(blocks, dict.fromkeys("abc", 2.0)), 0.5).ratios == pytest.approx(
        dict.fromkeys("abc", 0.5)
    )


def test_ratios_are_scaled_and_those_above_one_stay_there():
    blocks = {name: {f"{name}.w": 4} for name in "abc"}
    found = AlphaPruning().allocate(Problem(blocks, {"a": 3.0, "b": 2.0, "c": 2.5}), 0.9).ratios
    assert found["a"] == 1.0 and found["b"] / found["c"] == pytest.approx(0.7)
    assert sum(found.values()) / 3 == pytest.approx(0.9)


def test_blocks_without_a_tail_get_the_target():
    blocks = {name: {f"{name}.w": 4} for name in "abc"}
    found = AlphaPruning().allocate(Problem(blocks, {"a": 3.0, "b": math.nan, "c": 2.0}), 0.5).ratios
    assert found == pytest.approx({"a": 0.65, "b": 0.5, "c": 0.35})
    view = BlockView({"one": torch.ones(1, 5), "two": torch.randn(6, 8)}, {})
    assert AlphaPruning().read(view) == pytest.approx(tail_exponent(view.weights["two"]))
    assert math.isnan(AlphaPruning().read(BlockView({"one": torch.ones(1, 5)}, {})))

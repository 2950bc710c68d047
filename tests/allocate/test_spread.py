import pytest
import torch

from secateur.allocate.spread import block_scores, scaled, spread
from secateur.calibrate.statistic import InputRMS
from secateur.core.errors import RatioError
from secateur.core.protocols import BlockView
from secateur.testing import problem, summary


def test_ratios_span_both_sides_of_the_target_and_follow_the_scores():
    sizes = {"a": 10, "b": 20, "c": 30}
    found = spread({"a": 5.0, "b": 1.0, "c": 2.0}, sizes, 0.6, 0.08)
    assert found.mean(sizes) == pytest.approx(0.6, abs=1e-12)
    assert found.ratios["a"] - found.ratios["b"] == pytest.approx(0.16)
    assert found.ratios["a"] > found.ratios["c"] > found.ratios["b"]


def test_equal_scores_are_uniform_and_clipping_keeps_the_mean():
    even = spread({"a": 1.0, "b": 1.0}, {"a": 1, "b": 2}, 0.3, 0.1).ratios
    assert even == pytest.approx({"a": 0.3, "b": 0.3}) and even["a"] == even["b"]
    found = spread({"a": 0.0, "b": 1.0, "c": 1.0}, dict.fromkeys("abc", 1), 0.95, 0.1)
    assert max(found.ratios.values()) <= 1 and found.mean(dict.fromkeys("abc", 1)) == pytest.approx(0.95)


def test_block_scores_are_wandas():
    weight, x = problem(4, 8)
    stats = summary(weight, x)
    (score,) = block_scores(BlockView({"w": weight}, {"w": stats}))
    assert torch.equal(score, weight.abs() * stats[InputRMS].value)


def test_scaled_parts_keep_their_proportions_until_they_are_whole():
    sizes = {"a": 1, "b": 2, "c": 1}
    parts = {"a": 1.0, "b": 0.5, "c": 0.0}
    found = scaled(parts, sizes, 0.25).ratios
    assert found == pytest.approx({"a": 0.5, "b": 0.25, "c": 0.0})
    assert scaled(parts, sizes, 0.75).ratios == pytest.approx({"a": 1.0, "b": 1.0, "c": 0.0})
    assert scaled(parts, sizes, 0.0).mean(sizes) == pytest.approx(0.0, abs=1e-9)
    with pytest.raises(RatioError, match="out of reach"):
        scaled(parts, sizes, 0.8)
    with pytest.raises(RatioError):
        scaled(dict.fromkeys(sizes, 0.0), sizes, 0.5)

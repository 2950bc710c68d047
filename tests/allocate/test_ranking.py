import pytest
import torch

from secateur.allocate.problem import Problem
from secateur.allocate.ranking import Ranking
from secateur.calibrate.statistic import gather
from secateur.core.errors import InputError, NumericalError, RatioError
from secateur.core.protocols import BlockView
from secateur.score.magnitude import Magnitude


def view(weights):
    return BlockView(weights, dict.fromkeys(weights, gather(())))


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.8])
def test_ratios_are_those_of_one_threshold_over_all_weights(ratio):
    torch.manual_seed(0)
    weights = {"a.w": torch.randn(20, 30), "a.v": torch.randn(10, 30) * 3, "b.w": torch.randn(30, 40) * 0.5}
    method = Ranking(score=Magnitude(), most=1.0)
    views = {"a": view({k: weights[k] for k in ("a.w", "a.v")}), "b": view({"b.w": weights["b.w"]})}
    blocks = {name: {k: w.numel() for k, w in each.weights.items()} for name, each in views.items()}
    found = method.allocate(Problem(blocks, {name: method.read(each) for name, each in views.items()}), ratio)
    every = torch.cat([w.abs().flatten() for w in weights.values()]).sort().values
    threshold = every[round(ratio * len(every))]
    for name, weight in weights.items():
        assert found.ratios[name] == pytest.approx(float((weight.abs() < threshold).float().mean()), abs=0.01)
    assert found.mean(Problem(blocks).layers) == pytest.approx(ratio, abs=1e-9)


def test_a_share_outside_its_range_is_refused():
    with pytest.raises(InputError, match="most 2.0 should be"):
        Ranking(most=2.0)


def test_a_target_above_its_most_is_refused_and_no_matrix_loses_more():
    method = Ranking(score=Magnitude())
    views = {name: view({f"{name}.w": scale * torch.randn(20, 20)}) for name, scale in (("a", 1), ("b", 50))}
    problem = Problem({name: {f"{name}.w": 400} for name in views}, {k: method.read(each) for k, each in views.items()})
    for ratio in (0.6, 0.9, 0.94):
        found = method.allocate(problem, ratio)
        assert found.ratios["a.w"] == pytest.approx(0.95) and found.mean(problem.layers) == pytest.approx(ratio)
    with pytest.raises(RatioError, match=r"0\.97 is above .* most 0\.95"):
        method.allocate(problem, 0.97)
    with pytest.raises(NumericalError, match=r"a\.w: scores hold NaN"):
        method.read(view({"a.w": torch.full((2, 2), float("nan"))}))

import pytest
import torch

from secateur.allocate.problem import Problem
from secateur.allocate.ranking import Ranking
from secateur.core.errors import InputError
from secateur.core.roles import BlockView


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.8])
def test_ratios_are_those_of_one_threshold_over_all_weights(ratio):
    torch.manual_seed(0)
    weights = {"a.w": torch.randn(20, 30), "a.v": torch.randn(10, 30) * 3, "b.w": torch.randn(30, 40) * 0.5}
    method = Ranking(score="magnitude", most=1.0)
    views = {"a": BlockView({k: weights[k] for k in ("a.w", "a.v")}, {}), "b": BlockView({"b.w": weights["b.w"]}, {})}
    blocks = {name: {k: w.numel() for k, w in view.weights.items()} for name, view in views.items()}
    found = method.allocate(Problem(blocks, {name: method.read(view) for name, view in views.items()}), ratio)
    every = torch.cat([w.abs().flatten() for w in weights.values()]).sort().values
    threshold = every[round(ratio * len(every))]
    for name, weight in weights.items():
        assert found.ratios[name] == pytest.approx(float((weight.abs() < threshold).float().mean()), abs=0.01)
    assert found.mean(Problem(blocks).layers) == pytest.approx(ratio, abs=1e-9)


def test_unknown_scores_are_refused():
    with pytest.raises(InputError, match="wanda or magnitude"):
        Ranking(score="sum")

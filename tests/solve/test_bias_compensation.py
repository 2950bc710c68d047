import pytest
import torch

from secateur.core.pattern import Columns, PerRow
from secateur.score.fluctuation import Fluctuation
from secateur.solve.bias_compensation import BiasCompensation
from secateur.testing import problem, summary


@pytest.mark.parametrize("pattern", [Columns(unit=4), PerRow()])
def test_the_bias_keeps_every_outputs_mean(pattern):
    weight, x = problem(6, 32)
    x = x + 3 * torch.arange(32) / 32  # inputs whose means are far from zero
    found = BiasCompensation(score=Fluctuation()).solve(weight, summary(weight, x), pattern, 0.5)
    before, after = x @ weight.T, x @ found.weight.T
    torch.testing.assert_close((after + found.bias).mean(0), before.mean(0), rtol=1e-4, atol=1e-4)
    assert (after + found.bias - before).square().mean() < (after - before).square().mean()


def test_nothing_removed_adds_nothing():
    weight, x = problem(6, 32)
    assert not BiasCompensation(score=Fluctuation()).solve(weight, summary(weight, x), Columns(), 0.0).bias.any()

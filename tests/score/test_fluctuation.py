import torch

from secateur.calibrate.moments import Moments
from secateur.calibrate.statistic import gather
from secateur.score.fluctuation import Fluctuation


def test_a_columns_sum_is_what_a_constant_in_its_place_still_loses():
    weight, x = torch.randn(3, 4), torch.randn(50, 4) + 2
    score = Fluctuation()(weight, gather([Moments], x)).sum(dim=0)
    for column in range(4):
        away = (x[:, column] - x[:, column].mean())[:, None] * weight[:, column]
        torch.testing.assert_close(score[column], away.square().sum(dim=1).mean())


def test_a_constant_input_scores_nothing():
    x = torch.randn(20, 4)
    x[:, 1] = 7
    assert not Fluctuation()(torch.ones(2, 4), gather([Moments], x))[:, 1].any()

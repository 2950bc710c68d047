import torch

from secateur.calibrate.gradient import Gradient
from secateur.calibrate.statistic import Gathered
from secateur.score.taylor import Taylor


def test_the_score_is_the_loss_change_of_a_linear_loss():
    weight, slope = torch.randn(3, 4), torch.randn(3, 4)
    score = Taylor()(weight, Gathered({Gradient: Gradient(5 * slope, 5)}))
    for row in range(3):
        for column in range(4):
            without = weight.clone()
            without[row, column] = 0
            torch.testing.assert_close(score[row, column], ((without - weight) * slope).sum().abs())

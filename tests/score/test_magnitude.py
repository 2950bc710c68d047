import torch

from secateur.calibrate.statistic import gather
from secateur.score.magnitude import Magnitude


def test_score_is_the_absolute_weight():
    assert Magnitude()(torch.tensor([[-2.0, 1.0]]), gather(())).tolist() == [[2.0, 1.0]]

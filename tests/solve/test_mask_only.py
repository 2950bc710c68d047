import torch

from secateur.calibrate.statistic import gather
from secateur.core.pattern import PerRow
from secateur.score.magnitude import Magnitude
from secateur.solve.mask_only import MaskOnly


def test_kept_weights_are_unchanged():
    weight = torch.tensor([[1.0, -4.0, 2.0, 3.0]])
    solution = MaskOnly(score=Magnitude()).solve(weight, gather(()), PerRow(), 0.5)
    assert solution.weight.tolist() == [[0.0, -4.0, 0.0, 3.0]]
    assert solution.loss is None

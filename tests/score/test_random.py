import torch

from secateur.calibrate.statistic import gather
from secateur.score.random import Random


def test_scores_differ_by_seed_and_not_by_output():
    weight = torch.ones(3, 8)
    a, b = Random(seed=0)(weight, gather(())), Random(seed=1)(weight, gather(()))
    assert torch.equal(a[0], a[2]) and not torch.equal(a, b)
    assert torch.equal(a, Random(seed=0)(weight, gather(())))

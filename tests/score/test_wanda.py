import numpy as np
import torch

from secateur.calibrate.statistic import InputRMS, gather
from secateur.score.wanda import Wanda


def test_ranking_equals_the_published_formula():
    weight, x = torch.randn(4, 6), torch.randn(20, 6)
    ours = Wanda()(weight, gather([InputRMS], x)).numpy()
    theirs = np.abs(weight.numpy()) * np.sqrt((x.numpy() ** 2).sum(axis=0))  # constant factor apart
    np.testing.assert_allclose(ours * np.sqrt(20), theirs, rtol=1e-5)


def test_identity_inputs_make_it_magnitude():
    weight = torch.randn(4, 6)
    assert torch.allclose(Wanda()(weight, gather([InputRMS], torch.eye(6) * 6**0.5)), weight.abs())

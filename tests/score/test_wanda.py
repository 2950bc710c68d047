import numpy as np
import torch

from secateur.calibrate.statistic import InputRMS, gather
from secateur.score.wanda import Wanda, row_ranks


def test_ranking_equals_the_published_formula():
    weight, x = torch.randn(4, 6), torch.randn(20, 6)
    ours = Wanda()(weight, gather([InputRMS], x)).numpy()
    theirs = np.abs(weight.numpy()) * np.sqrt((x.numpy() ** 2).sum(axis=0))  # constant factor apart
    np.testing.assert_allclose(ours * np.sqrt(20), theirs, rtol=1e-5)


def test_identity_inputs_make_it_magnitude():
    weight = torch.randn(4, 6)
    assert torch.allclose(Wanda()(weight, gather([InputRMS], torch.eye(6) * 6**0.5)), weight.abs())


def test_ranks_count_what_a_row_holds_below_and_ties_go_left_first():
    ranks = row_ranks(torch.tensor([[3.0, 1.0, 2.0], [5.0, 5.0, 0.0]]))
    assert ranks.tolist() == [[2, 0, 1], [1, 2, 0]]
    assert row_ranks(torch.rand(1, 40_000)).max() == 39_999

import numpy as np
import torch

from secateur.calibrate.statistic import InputRMS, gather
from secateur.score.ria import RIA


def test_score_equals_a_plain_loop():
    weight, x = torch.randn(3, 5), torch.randn(20, 5)
    w, norm = np.abs(weight.numpy()), np.sqrt((x.numpy() ** 2).mean(axis=0))
    expected = np.empty_like(w)
    for i in range(3):
        for j in range(5):
            expected[i, j] = (w[i, j] / w[i].sum() + w[i, j] / w[:, j].sum()) * norm[j] ** 0.5
    np.testing.assert_allclose(RIA()(weight, gather([InputRMS], x)).numpy(), expected, rtol=1e-5)


def test_power_zero_ignores_inputs_and_zero_columns_do_not_divide():
    weight = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    values = RIA(power=0.0)(weight, gather([InputRMS], torch.randn(9, 2)))
    assert torch.allclose(values, torch.tensor([[1.25, 0.0], [1.75, 0.0]]))

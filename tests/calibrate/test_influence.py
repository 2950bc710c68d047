import pytest
import torch

from secateur.calibrate.influence import Influence
from secateur.core.errors import CalibrationError


def test_influence_is_one_minus_the_mean_cosine():
    before = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]])
    after = torch.tensor([[[5.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [1.0, 1.0]]])
    whole, parts = Influence(), Influence()
    whole.update(before, after)
    assert whole.value == pytest.approx((0 + 1 + 2 + 1 - 0.5**0.5) / 4)
    parts.update(before[:, :1], after[:, :1])
    parts.update(before[:, 1:], after[:, 1:])
    assert parts.value == pytest.approx(whole.value)


def test_no_tokens_and_nan_are_errors():
    with pytest.raises(CalibrationError):
        _ = Influence().value
    seen = Influence()
    seen.update(torch.full((1, 1, 2), torch.nan), torch.ones(1, 1, 2))
    with pytest.raises(CalibrationError):
        _ = seen.value

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.calibrate.moments import Moments
from secateur.core.errors import CalibrationError


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5))
def test_any_split_gives_the_variance_of_all(sizes):
    parts = [torch.randn(size, 4) + 1000 for size in sizes]  # a mean far from zero: sums of squares would cancel
    whole, merged = Moments(), Moments()
    for part in parts:
        whole.update(part)
        one = Moments()
        one.update(part)
        merged = merged.merge(one)
    expected = torch.cat(parts).double().var(dim=0, correction=0).float()
    torch.testing.assert_close(whole.value, expected)
    torch.testing.assert_close(merged.value, expected)


def test_no_tokens_and_nan_are_errors():
    moments = Moments()
    moments.update(torch.zeros(0, 3))
    with pytest.raises(CalibrationError, match="no calibration token"):
        _ = moments.value
    moments.update(torch.full((1, 3), torch.nan))
    with pytest.raises(CalibrationError, match="NaN"):
        _ = moments.value

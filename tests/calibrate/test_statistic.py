import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.calibrate.statistic import Gram, InputRMS, gather
from secateur.core.errors import CalibrationError
from secateur.core.linalg import damped

KINDS = (InputRMS, Gram)


@pytest.mark.parametrize("kind", KINDS)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(1, 300))
def test_merge_equals_one_pass_in_any_grouping(kind, sizes, width):
    parts = [torch.randn(size, width) for size in sizes]
    each = [gather([kind], part)[kind] for part in parts]
    left, right = each[0], each[-1]
    for part in each[1:]:
        left = left.merge(part)
    for part in reversed(each[:-1]):
        right = part.merge(right)
    whole = gather([kind], *parts)[kind].value
    assert torch.allclose(left.value, whole, rtol=1e-4, atol=1e-5)
    assert torch.allclose(right.value, whole, rtol=1e-4, atol=1e-5)


def test_values_follow_their_formulas():
    x = torch.randn(50, 500)
    stats = gather(KINDS, x[:20], x[20:])
    gram = stats[Gram].value
    assert torch.allclose(gram, 2 / 50 * x.T @ x, atol=1e-4)
    assert torch.equal(gram, gram.T)
    assert torch.allclose(stats[InputRMS].value, x.square().mean(dim=0).sqrt(), rtol=1e-4)
    assert Gram in stats and int not in stats


def test_the_factor_is_kept_until_new_inputs_come():
    gram = gather([Gram], torch.randn(40, 8))[Gram]
    first = gram.factor(0.01)
    assert gram.factor(0.01) is first
    assert torch.allclose(torch.linalg.inv(first.T @ first), damped(gram.value, 0.01), rtol=1e-3, atol=1e-4)
    gram.update(torch.randn(40, 8))
    assert not torch.equal(gram.factor(0.01), first)


@pytest.mark.parametrize("kind", KINDS)
def test_no_tokens_and_nan_are_errors(kind):
    with pytest.raises(CalibrationError, match="no calibration token"):
        _ = gather([kind])[kind].value
    with pytest.raises(CalibrationError, match="no calibration token"):
        _ = gather([kind], torch.zeros(0, 4))[kind].value
    with pytest.raises(CalibrationError, match="NaN or inf"):
        _ = gather([kind], torch.tensor([[1.0, float("nan")]]))[kind].value


def test_half_precision_inputs_do_not_overflow():
    x = torch.full((4, 3), 1000.0, dtype=torch.float16)
    assert gather(KINDS, x)[Gram].value[0, 0] == pytest.approx(2e6)
    assert gather(KINDS, x)[InputRMS].value[0] == pytest.approx(1000)

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.core.errors import NumericalError, PatternError, RatioError
from secateur.core.pattern import NM, Columns, PerRow, Unstructured, keep_highest, parse_pattern

SIZES = (st.integers(1, 7), st.integers(1, 33), st.floats(0, 1), st.integers(1, 4))


def tied(rows, columns, distinct):
    return torch.randint(0, distinct, (rows, columns), generator=torch.Generator().manual_seed(rows * columns)).float()


@given(*SIZES)
def test_unstructured_ratio_is_exact_with_ties(rows, columns, ratio, distinct):
    score = tied(rows, columns, distinct)
    keep = Unstructured().keep(score, ratio)
    assert int((~keep).sum()) == round(ratio * rows * columns)
    if keep.any() and not keep.all():
        assert score[~keep].max() <= score[keep].min()


@given(*SIZES)
def test_row_ratio_is_exact_in_every_row(rows, columns, ratio, distinct):
    keep = PerRow().keep(tied(rows, columns, distinct), ratio)
    assert ((~keep).sum(dim=1) == round(ratio * columns)).all()


@given(st.integers(1, 5), st.integers(2, 60), st.integers(0, 60), st.integers(1, 4))
def test_selection_equals_a_stable_sort(rows, columns, removed, distinct):
    score = tied(rows, columns, distinct)
    order = score.argsort(dim=1, stable=True)[:, : min(removed, columns)]
    expected = torch.ones_like(score, dtype=torch.bool).scatter_(1, order, False)
    assert torch.equal(keep_highest(score, removed), expected)
    assert torch.equal(keep_highest(score.half(), removed), expected)  # the other selection


@given(st.sampled_from([Unstructured(), PerRow(), Columns(unit=4)]), st.floats(0, 1))
def test_windows_add_up_to_the_ratio(pattern, ratio):
    score = torch.randn(5, 64)
    kept = [pattern.keep_window(score[:, at : at + 16], ratio, at) for at in range(0, 64, 16)]
    assert int(torch.cat(kept, dim=1).sum()) == int(pattern.keep(score, ratio).sum())


@given(st.integers(1, 8), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_nm_keeps_the_n_highest_of_every_group(m, rows, groups, distinct):
    for n in range(1, m + 1):
        score = tied(rows, m * groups, distinct)
        keep = NM(n=n, m=m).keep(score, 1 - n / m).reshape(-1, m)
        order = score.reshape(-1, m).argsort(dim=1, stable=True)[:, : m - n]
        assert torch.equal(keep, torch.ones_like(keep).scatter_(1, order, False))


@pytest.mark.parametrize("m", [2, 3, 8, 9, 64, 127, 128, 129, 200, 255, 256, 257, 300, 400, 512])
@pytest.mark.parametrize("distinct", [1, 2, 5, 10**6])
def test_wide_groups_keep_exactly_n_of_m(m, distinct):
    score = tied(3, 2 * m, distinct)
    for n in sorted({1, m // 2, m - 1, m}):
        for keep in (NM(n=n, m=m).keep(score, 1 - n / m), NM(n=n, m=m).keep(score.double(), 1 - n / m)):
            groups = keep.reshape(-1, m)
            order = score.reshape(-1, m).argsort(dim=1, stable=True)[:, : m - n]
            assert torch.equal(groups, torch.ones_like(groups).scatter_(1, order, False))


@pytest.mark.parametrize("pattern", [Unstructured(), PerRow(), NM(n=2, m=4), NM(n=128, m=256), Columns(unit=4)])
def test_a_choice_that_keeps_another_number_is_an_error(pattern, monkeypatch):
    score = torch.rand(4, 512)
    assert int(pattern.keep(score, 0.5).sum()) == 4 * 256
    honest = torch.Tensor.__lt__
    monkeypatch.setattr(torch.Tensor, "__lt__", lambda a, b: honest(a, b) & False)
    monkeypatch.setattr("secateur.core.pattern._kth_lowest", lambda score, k: score.amax(1, keepdim=True) + 1)
    with pytest.raises(NumericalError, match="keeps .* not "):
        pattern.keep(score, 0.5)


def test_columns_go_whole_by_summed_score():
    score = torch.tensor([[1.0, 0.0, 5.0, 5.0, 2.0, 2.0], [1.0, 0.0, 5.0, 5.0, 2.0, 2.0]])
    keep = Columns(unit=2).keep(score, 1 / 3)
    assert keep.tolist() == [[False, False, True, True, True, True]] * 2


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_a_wrong_ratio_is_refused(ratio):
    with pytest.raises(RatioError, match="outside 0..1"):
        Unstructured().keep(torch.zeros(2, 2), ratio)


def test_an_unfitting_width_or_ratio_is_refused():
    with pytest.raises(PatternError, match="multiple of 4, got 6"):
        NM().keep(torch.zeros(2, 6), 0.5)
    with pytest.raises(RatioError, match="removes exactly 0.5"):
        NM().keep(torch.zeros(2, 8), 0.6)
    with pytest.raises(PatternError, match="do not divide"):
        Columns(unit=4).keep(torch.zeros(2, 6), 0.5)
    with pytest.raises(PatternError, match="0 < n <= m"):
        NM(n=5, m=4)


@pytest.mark.parametrize("pattern", [Unstructured(), PerRow(), NM(), NM(n=128, m=256), Columns()])
def test_nan_scores_are_an_error(pattern):
    with pytest.raises(NumericalError, match="NaN"):
        pattern.keep(torch.full((2, 256), float("nan")), 0.5)
    one = torch.rand(2, 256)
    one[1, 7] = float("nan")
    with pytest.raises(NumericalError, match="NaN"):
        pattern.keep(one, 0.5)


def test_names_are_read_back():
    assert parse_pattern("unstructured") == Unstructured()
    assert parse_pattern("row") == PerRow()
    assert parse_pattern("columns") == Columns()
    assert parse_pattern("columns:64") == Columns(unit=64)
    assert parse_pattern("4:8") == NM(n=4, m=8)
    with pytest.raises(PatternError, match="'blocks' is unknown"):
        parse_pattern("blocks")
    with pytest.raises(PatternError, match="is unknown"):
        parse_pattern(f"2:{'4' * 5000}")

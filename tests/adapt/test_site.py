import pytest
import torch

from secateur.adapt.site import Site, Slice, site_slices
from secateur.core.errors import InputError


def site(**changes):
    span = torch.arange(8).reshape(4, 2)
    settings = dict(name="b.heads", kind="heads", count=4, weights=10, rows={"q": span}, columns={"o": span})
    return Site(**settings | changes)


def test_slices_keep_units_whole_and_in_order():
    slices = site_slices(site(), (1, 3))
    assert slices["q"].columns is None and slices["q"].rows.tolist() == [0, 1, 4, 5]
    assert slices["o"].rows is None and slices["o"].columns.tolist() == [0, 1, 4, 5]
    assert site().layer == "o" and site().pattern.unit == 2 and site(groups=2).step == 2


def test_parts_of_a_fused_matrix_stay_apart():
    index = torch.tensor([[0, 3], [1, 4], [2, 5]])
    fused = site(kind="ffn", count=3, rows={"gate_up": index}, columns={"down": index[:, :1]})
    assert site_slices(fused, (0, 2))["gate_up"].rows.tolist() == [1, 4]


def test_unknown_units_and_sites_nobody_can_solve_are_refused():
    with pytest.raises(InputError, match="it has 4"):
        site_slices(site(), (4,))
    with pytest.raises(InputError, match="whose columns go"):
        site(columns={})
    with pytest.raises(InputError, match="has 4 units, and 3 places in 'q'"):
        short = torch.arange(6).reshape(3, 2)
        site(rows={"q": short}, columns={"o": short})


def test_a_layer_cut_in_rows_and_in_columns_loses_both():
    weight = torch.arange(24.0).reshape(6, 4)
    both = Slice(rows=torch.tensor([0, 2, 5])).joined(Slice(columns=torch.tensor([1, 3])), "a")
    assert torch.equal(both.cut(weight), weight[[1, 3, 4]][:, [0, 2]]) and both.shape(6, 4) == (3, 2)
    assert torch.equal(both.cut(weight[:, 0]), weight[[1, 3, 4], 0])
    with pytest.raises(InputError, match="two sites cut the same rows of 'a'"):
        both.joined(Slice(rows=torch.tensor([0])), "a")
    span = torch.arange(4)[:, None]
    square = site(rows={"q": span, "s": span}, columns={"s": span, "o": span})
    assert site_slices(square, (1, 2))["s"].shape(4, 4) == (2, 2)


def test_rows_that_no_unit_names_stay():
    """Query heads of a fused matrix go; the keys and values they share do not."""
    fused = site(rows={"qkv": torch.arange(8).reshape(4, 2)}, groups=2)
    weight = torch.arange(24.0).reshape(12, 2)
    assert torch.equal(site_slices(fused, (0, 2))["qkv"].cut(weight), weight[[0, 1, 4, 5, 8, 9, 10, 11]])

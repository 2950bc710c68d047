import pytest
import torch

from secateur.adapt.site import Site, kept_slices
from secateur.core.errors import InputError


def site(**changes):
    span = torch.arange(8).reshape(4, 2)
    settings = dict(name="b.heads", kind="heads", count=4, weights=10, rows={"q": span}, columns={"o": span})
    return Site(**settings | changes)


def test_slices_keep_units_whole_and_in_order():
    slices = kept_slices(site(), (1, 3))
    assert slices["q"][0] == 0 and slices["q"][1].tolist() == [2, 3, 6, 7]
    assert slices["o"][0] == 1 and slices["o"][1].tolist() == [2, 3, 6, 7]
    assert site().layer == "o" and site().pattern.unit == 2 and site(groups=2).step == 2


def test_parts_of_a_fused_matrix_stay_apart():
    index = torch.tensor([[0, 3], [1, 4], [2, 5]])
    fused = site(kind="ffn", count=3, rows={"gate_up": index}, columns={"down": index[:, :1]})
    assert kept_slices(fused, (0, 2))["gate_up"][1].tolist() == [0, 2, 3, 5]


def test_unknown_units_and_kinds_are_refused():
    with pytest.raises(InputError, match="it has 4"):
        kept_slices(site(), (4,))
    with pytest.raises(InputError, match="must be one of"):
        site(kind="wheels")

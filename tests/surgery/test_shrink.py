import pytest
import torch

from conftest import CONFIGS, tiny_model
from secateur.adapt.site import Site
from secateur.adapt.structure import describe
from secateur.core.cut import Cut
from secateur.core.errors import InputError
from secateur.surgery.shrink import cut_sizes, cut_slices, shrink_, sliced

IDS = torch.arange(3, 19)[None]


def sites_of(model):
    return describe(model).sites()


@pytest.mark.parametrize("family", CONFIGS)
def test_shrinking_equals_masking_and_sizes_are_foretold(family):
    masked, small = tiny_model(family), tiny_model(family)
    sites = sites_of(masked)
    cut = Cut({site.name: tuple(range(1, site.count)) for site in sites})
    layers = {layer.name: layer for layer in describe(masked).layers}
    for site in sites:
        weight = layers[site.layer].weight.clone()
        weight[:, site.columns[site.layer][0]] = 0
        layers[site.layer].set_weight(weight)
    before = describe(masked).sizes
    shrink_(describe(small), sites, cut)
    assert torch.allclose(small(IDS).logits, masked(IDS).logits, atol=1e-4)
    assert describe(small).sizes == cut_sizes(sites, cut, before)


def test_biases_lose_rows_only_and_unknown_sites_are_refused():
    sites = sites_of(tiny_model("opt"))
    slices = cut_slices(sites, Cut({sites[1].name: (0, 5)}))
    name = sites[1].layer
    assert sliced(torch.zeros(32), slices, f"{name}.bias").shape == (32,)
    assert sliced(torch.zeros(48), slices, name.replace("fc2", "fc1") + ".bias").shape == (2,)
    assert sliced(torch.zeros(7), slices, "lm_head.weight").shape == (7,)
    with pytest.raises(InputError, match="does not have"):
        cut_slices(sites, Cut({"wheel": (0,)}))


def test_two_sites_may_cut_a_layer_in_rows_and_in_columns_but_not_twice_alike():
    rows, columns = torch.arange(6).reshape(3, 2), torch.arange(4).reshape(2, 2)
    tail = torch.arange(5)[:, None]
    first = Site("first", "channels", 3, 1, rows={"a": rows}, columns={"b": rows})
    second = Site("second", "channels", 2, 1, rows={"c": columns}, columns={"a": columns})
    slices = cut_slices([first, second], Cut({"first": (0, 2), "second": (1,)}))
    weight = torch.arange(24.0).reshape(6, 4)
    assert torch.equal(sliced(weight, slices, "a.weight"), weight[[0, 1, 4, 5]][:, [2, 3]])
    assert sliced(torch.arange(6), slices, "a.bias").tolist() == [0, 1, 4, 5]
    third = Site("third", "channels", 5, 1, rows={"a": tail}, columns={"d": tail})
    with pytest.raises(InputError, match="two sites cut the same rows of 'a'"):
        cut_slices([first, third], Cut({"first": (0,), "third": (1,)}))

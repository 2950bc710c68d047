import pytest
import torch

from conftest import CONFIGS, tiny_model
from secateur.adapt.adapter import Adapter
from secateur.adapt.sites import block_sites, block_sizes, head_dim
from secateur.core.errors import InputError

IDS = torch.arange(3, 19)[None]


@pytest.mark.parametrize("family", CONFIGS)
def test_what_a_unit_reads_and_writes_is_its_own(family):
    """Zeroing a unit's columns equals zeroing the rows that feed them (biases too)."""
    for number in range(2):
        model, other = tiny_model(family), tiny_model(family)
        width = head_dim(model.config)
        first, second = Adapter(model).blocks()[0], Adapter(other).blocks()[0]
        sites = block_sites(first, width)
        if number >= len(sites):
            continue
        site = sites[number]
        if site.kind == "heads":  # K and V stay, and a head without a query still attends evenly
            continue
        columns = first.named(site.layer)
        weight = columns.weight.clone()
        weight[:, site.columns[site.layer][0]] = 0
        columns.set_weight(weight)
        for name, index in site.rows.items():
            layer = second.named(name)
            rows = layer.weight.clone()
            rows[index[0]] = 0
            layer.set_weight(rows)
            if layer.bias is not None:
                layer.bias[index[0]] = 0
        assert torch.allclose(model(IDS).logits, other(IDS).logits, atol=1e-4)


def test_units_can_be_chosen_and_the_impossible_is_refused():
    block = Adapter(tiny_model("llama")).blocks()[0]
    heads = block_sites(block, 8, unit="heads")[0]
    assert (heads.kind, heads.count, heads.groups) == ("heads", 4, 2)
    assert [site.kind for site in block_sites(block, 8, unit="none")] == ["ffn"]
    assert block_sizes(block, 8) == (4, 2, 48)
    with pytest.raises(InputError, match="one KV head"):
        block_sites(Adapter(tiny_model("llama-mqa")).blocks()[0], 8, unit="kv_groups")
    with pytest.raises(InputError, match="ALiBi"):
        block_sites(Adapter(tiny_model("bloom")).blocks()[0], 8, unit="heads")
    with pytest.raises(InputError, match="unknown"):
        block_sites(block, 8, unit="wheels")

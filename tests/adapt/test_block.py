import pytest
import torch

from conftest import CONFIGS, tiny_model
from secateur.adapt.structure import describe
from secateur.core.errors import InputError

IDS = torch.arange(3, 19)[None]


@pytest.mark.parametrize("family", CONFIGS)
def test_what_a_unit_reads_and_writes_is_its_own(family):
    """Zeroing a unit's columns equals zeroing the rows that feed them (biases too)."""
    for number in range(2):
        model, other = tiny_model(family), tiny_model(family)
        first, second = describe(model).blocks[0], describe(other).blocks[0]
        sites = first.sites()
        if number >= len(sites):
            continue
        site = sites[number]
        if site.kind == "heads":  # K and V stay, and a head without a query still attends evenly
            continue
        columns = first.layer(site.layer)
        weight = columns.weight.clone()
        weight[:, site.columns[site.layer][0]] = 0
        columns.set_weight(weight)
        for name, index in site.rows.items():
            layer = second.layer(name)
            rows = layer.weight.clone()
            rows[index[0]] = 0
            layer.set_weight(rows)
            if layer.bias is not None:
                layer.bias[index[0]] = 0
        assert torch.allclose(model(IDS).logits, other(IDS).logits, atol=1e-4)


def test_units_can_be_chosen_and_the_impossible_is_refused():
    block = describe(tiny_model("llama")).blocks[0]
    heads = block.sites("heads")[0]
    assert (heads.kind, heads.count, heads.groups) == ("heads", 4, 2)
    assert [site.kind for site in block.sites("none")] == ["ffn"]
    assert block.sizes == (4, 2, 48)
    with pytest.raises(InputError, match="one KV head"):
        describe(tiny_model("llama-mqa")).blocks[0].sites("kv_groups")
    with pytest.raises(InputError, match="ALiBi"):
        describe(tiny_model("bloom")).blocks[0].sites("heads")
    with pytest.raises(InputError, match="unknown"):
        block.sites("wheels")


@pytest.mark.parametrize("family", CONFIGS)
def test_query_heads_leave_every_key_and_value_where_they_are_shared(family):
    for site in describe(tiny_model(family)).sites("none" if family.startswith("bloom") else "heads"):
        model = tiny_model(family)
        block = describe(model).blocks[0]
        attention = block.attentions[0]
        if site.kind != "heads" or attention.kv_heads == attention.heads:
            continue
        named = {name: set(index.flatten().tolist()) for name, index in site.rows.items()}
        assert sum(map(len, named.values())) == attention.heads * attention.width  # queries alone

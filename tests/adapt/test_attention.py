import pytest
import torch
from torch import nn

from secateur.adapt.attention import Attention, site_weights, span
from secateur.adapt.layer import Layer
from secateur.core.errors import InputError, ModelError


def attention(heads, kv_heads, *, fused=None, no_heads=""):
    sizes = (heads * 4, kv_heads * 4, kv_heads * 4)
    parts = [nn.Linear(16, size) for size in sizes] if fused is None else [nn.Linear(16, sum(sizes))]
    layers = tuple(Layer(f"a.{number}", part) for number, part in enumerate(parts))
    output = Layer("a.o", nn.Linear(heads * 4, 16))
    return Attention("a", "decoder", 0, 4, layers, output, nn.Identity(), fused or "parts", no_heads)


def test_heads_are_read_off_the_matrices():
    assert (attention(8, 2).heads, attention(8, 2).kv_heads) == (8, 2)
    assert (attention(8, 2, fused="parts").heads, attention(8, 2, fused="parts").kv_heads) == (8, 2)


def test_a_group_takes_its_keys_along_and_a_query_head_leaves_them():
    groups, heads = attention(8, 2).site("kv_groups"), attention(8, 2).site("heads")
    assert (groups.count, groups.groups, groups.pattern.unit) == (2, 1, 16)
    assert groups.rows["a.1"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert (heads.count, heads.groups, heads.pattern.unit) == (8, 2, 4) and set(heads.rows) == {"a.0"}
    whole = attention(4, 4).site("heads")
    assert set(whole.rows) == {"a.0", "a.1", "a.2"} and whole.rows["a.2"][1].tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize("fused", ["parts", "heads"])
def test_rows_of_a_fused_layer_belong_to_their_head(fused):
    rows = attention(2, 2, fused=fused).site("heads").rows["a.0"]
    expected = {"parts": [*range(4), *range(8, 12), *range(16, 20)], "heads": list(range(12))}
    assert rows[0].tolist() == expected[fused] and torch.cat(list(rows)).unique().numel() == 24


def test_units_are_chosen_or_refused():
    assert attention(8, 2).unit() == "kv_groups" and attention(8, 1).unit() == "heads"
    assert attention(8, 2, no_heads="slopes").unit() == "none"
    with pytest.raises(InputError, match="unknown"):
        attention(8, 2).unit("wheels")
    with pytest.raises(InputError, match="slopes"):
        attention(8, 2, no_heads="slopes").unit("heads")
    with pytest.raises(InputError, match="one KV head"):
        attention(8, 1).site("kv_groups")
    with pytest.raises(ModelError, match="unevenly"):
        attention(8, 3).site("heads")


def test_a_unit_weighs_what_its_rows_and_columns_hold():
    one = attention(4, 4)
    assert one.site("heads").weights == 3 * 4 * (16 + 1) + 4 * 16
    assert site_weights({"o": one.output}, {}, {"o": span(4, 4)}) == 4 * 16

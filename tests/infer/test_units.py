import pytest
import torch

from conftest import tiny_model
from secateur.adapt.structure import describe
from secateur.core.errors import InputError, ModelError
from secateur.infer.describe import infer
from secateur.infer.units import find_units, unit_sites, units_of
from tiny_decoders import tiny_decoder


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3", "gemma2", "phi3"])
def test_sites_are_those_of_the_table(name):
    model = tiny_model(name)
    known = {site.name: site for site in describe(model).sites()}
    found = [site for _, site in unit_sites(infer(model), "auto")]
    assert len(found) == len(known)
    for site in found:
        other = next(other for other in known.values() if other.layer == site.layer)
        assert (site.count, site.weights, site.kind) == (other.count, other.weights, other.kind)
        assert {key: value.sort().values.tolist() for key, value in site.rows.items()} == {
            key: value.sort().values.tolist() for key, value in other.rows.items()
        }
        assert site.columns[site.layer].tolist() == other.columns[other.layer].tolist()


def test_heads_come_before_channels():
    units = find_units(*parts("gemma"), "auto")
    assert [(unit.kind, unit.count) for unit in units] == [("kv_groups", 2), ("ffn", 96)]


def test_sites_of_a_stack_stand_in_the_order_of_its_matrices():
    (unit,) = find_units(*parts("mixtral"), "none")
    for _, names in unit.parts.values():
        assert [int(name.rpartition(".")[2]) for name in names] == [0, 1, 2, 3]


def test_experts_lose_channels_each_by_itself():
    units = find_units(*parts("mixtral"), "none")
    assert [(unit.kind, unit.count, len(unit.sites)) for unit in units] == [("ffn", 96, 12)]
    name = "model.layers.0.mlp.experts.down_proj"
    value = torch.arange(4 * 64 * 96.0).reshape(4, 64, 96)
    kept = {site.name: tuple(range(number % 12, number % 12 + 8)) for number, (_, site) in enumerate(units[0].sites)}
    sites = [site.name for _, site in units[0].sites][:4]
    cut = units[0].cut(name, value, kept)
    assert all(torch.equal(cut[number], value[number][:, list(kept[site])]) for number, site in enumerate(sites))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("olmo2", "q_norm.weight spans all of them"),
        ("bert", "not a multiple of the number of attention heads"),
        ("minimax_m2", "q_norm.weight spans all of them"),
        ("bamba", "no tensor of it becomes smaller|computes something else"),
    ],
)
def test_heads_that_cannot_go_are_refused_with_the_reason(name, said):
    with pytest.raises(ModelError, match=rf"cannot lose heads: .*({said})"):
        find_units(*parts(name), "kv_groups")
    assert {unit.kind for unit in find_units(*parts(name), "auto")} == {"ffn"}


def test_query_heads_that_share_keys_are_refused_with_what_to_take_instead():
    with pytest.raises(ModelError, match="its 4 query heads share 2 key-value heads .kv_groups removes both."):
        find_units(*parts("gemma"), "heads")


@pytest.mark.parametrize("name", ["mamba2", "xlstm", "mpt"])
def test_a_model_without_units_is_refused_with_the_reason(name):
    with pytest.raises(ModelError, match="has no units that can be removed: .*; single weights and n:m can be pruned"):
        find_units(*parts(name), "auto")


def test_units_are_found_once_and_names_are_checked():
    structure = infer(tiny_decoder("gemma"))
    assert units_of(structure, "auto") is units_of(structure, "auto")
    with pytest.raises(InputError, match="unit 'some' is unknown"):
        find_units(*parts("gemma"), "some")


def parts(name):
    structure = infer(tiny_decoder(name))
    return structure.model, structure.blocks

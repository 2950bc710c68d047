import pytest

from conftest import tiny_model
from secateur.adapt.structure import describe
from secateur.allocate.units import count_units
from secateur.core.errors import RatioError


def sites_of(blocks=4):
    adapter = describe(tiny_model("llama", blocks=blocks))
    sites = {block.name: block.sites() for block in adapter.blocks}
    weights = {block.name: sum(layer.weight.numel() for layer in block.layers) for block in adapter.blocks}
    return sites, weights


def removed(sites, kept):
    return sum((site.count - kept[site.name]) * site.weights for group in sites.values() for site in group)


@pytest.mark.parametrize("round_to", [1, 4])
@pytest.mark.parametrize("ratios", [(0.1, 0.2, 0.3, 0.5), (0.2, 0.25, 0.3, 0.35), (0.0, 0.3, 0.6, 0.4)])
def test_the_target_is_met_to_one_step_and_channels_are_rounded(ratios, round_to):
    sites, weights = sites_of()
    by_name = dict(zip(weights, ratios, strict=True))
    kept = count_units(sites, by_name, weights, round_to)
    target = sum(by_name[name] * weights[name] for name in weights)
    assert abs(removed(sites, kept) - target) <= 96 * round_to
    for name, (heads, ffn) in sites.items():
        assert kept[heads.name] >= 1 and kept[ffn.name] % round_to == 0
        assert by_name[name] or (kept[heads.name], kept[ffn.name]) == (heads.count, ffn.count)


def test_equal_ratios_give_equal_blocks():
    sites, weights = sites_of()
    kept = count_units(sites, dict.fromkeys(weights, 0.33), weights)
    assert len({(kept[heads.name], kept[ffn.name]) for heads, ffn in sites.values()}) == 1


def test_what_cannot_go_is_an_error():
    sites, weights = sites_of()
    with pytest.raises(RatioError, match="every site keeps a unit"):
        count_units(sites, dict.fromkeys(weights, 0.97), weights)

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from conftest import CONFIGS, tiny_model
from secateur.adapt.structure import describe
from secateur.core.errors import InputError, RatioError
from secateur.run.prune import prune
from secateur.run.recipe import Recipe
from secateur.run.targets import choose_targets, ratio_for
from secateur.storage.shards import Checkpoint

STRUCTURE = describe(tiny_model("llama"))
STRUCTURE3 = describe(tiny_model("llama", blocks=3))


def test_single_weights_and_units_ask_different_layers():
    single = choose_targets(STRUCTURE, Recipe(method="wanda", ratio=0.5), 4)
    assert len(single.layers) == 14 and not single.sites
    units = choose_targets(STRUCTURE, Recipe(method="slimgpt", ratio=0.5), 4)
    assert {name.rsplit(".", 1)[1] for name in units.layers} == {"o_proj", "down_proj"} and len(units.sites) == 4


def test_exempt_blocks_lose_nothing_and_others_make_up():
    targets = choose_targets(STRUCTURE, Recipe(method="slimgpt", ratio=0.3, exempt=[0], round_to=1), 4)
    assert all(".layers.1." in name for name in targets.layers)
    with pytest.raises(RatioError, match="would empty"):
        choose_targets(STRUCTURE, Recipe(method="slimgpt", ratio=0.6, exempt=[-1]), 4)
    with pytest.raises(InputError, match="block 7"):
        choose_targets(STRUCTURE, Recipe(method="slimgpt", ratio=0.3, exempt=[7]), 4)


def test_an_exempt_block_may_not_be_given_a_ratio():
    for name in ("model.layers.0", "model.layers.0.mlp.up_proj"):
        with pytest.raises(InputError, match=rf"'{name}' the ratio 0.2, but exempt spares"):
            choose_targets(STRUCTURE, Recipe(method="magnitude", ratio=0.3, ratios={name: 0.2}, exempt=[0]), 4)
        choose_targets(STRUCTURE, Recipe(method="magnitude", ratio=0.3, ratios={name: 0.0}, exempt=[0]), 4)


def test_mixed_n_of_m_leaves_exempt_blocks_whole_or_says_it_cannot_meet_the_share():
    sizes = {layer.name: layer.weight.numel() for layer in STRUCTURE3.layers}
    recipe = Recipe(method="wanda", pattern="4:8", exempt=[1])
    layers = choose_targets(STRUCTURE3, recipe, 4).layers
    assert all((target.ratio == 0) == (".layers.1." in name) for name, target in layers.items())
    assert sum(layers[name].ratio * sizes[name] for name in sizes) == pytest.approx(sum(sizes.values()) / 2)
    with pytest.raises(RatioError, match="at most 1 of every 2 weights"):
        choose_targets(STRUCTURE3, Recipe(method="wanda", pattern="1:2", exempt=[1]), 4)


@pytest.mark.parametrize(("budget", "each"), [("13k-params", 1), ("52k-bytes", 4)])
def test_budgets_become_ratios(budget, each):
    ratio = ratio_for(STRUCTURE, Recipe(method="slimgpt", budget=budget), each)
    inside = sum(layer.size for layer in STRUCTURE.layers)
    assert STRUCTURE.model.num_parameters() - ratio * inside == pytest.approx(13_000)


def test_budgets_out_of_reach_are_refused():
    with pytest.raises(RatioError, match="lies outside the blocks"):
        ratio_for(STRUCTURE, Recipe(method="slimgpt", budget="1k-params"), 4)
    with pytest.raises(InputError, match="cannot be planned"):
        ratio_for(STRUCTURE, Recipe(method="slimgpt", budget="5-ms"), 4)
    with pytest.raises(InputError, match="no block"):
        choose_targets(STRUCTURE, Recipe(method="slimgpt", ratio=0.3, ratios={"a": 0.5}), 4)


def test_unequal_ratios_meet_the_target_in_whole_weights():
    sizes = {layer.name: layer.weight.numel() for layer in STRUCTURE.layers}
    recipe = Recipe(method="magnitude", ratio=0.37, allocator="incremental")
    layers = choose_targets(STRUCTURE, recipe, 4).layers
    removed = {name: layers[name].ratio * sizes[name] for name in sizes}
    assert all(count == pytest.approx(round(count), abs=1e-6) for count in removed.values())
    assert abs(sum(removed.values()) - 0.37 * sum(sizes.values())) <= 1
    assert len({target.ratio for target in layers.values()}) > 2


def test_mixed_n_of_m_removes_the_patterns_share_on_the_whole():
    sizes = {layer.name: layer.weight.numel() for layer in STRUCTURE.layers}
    layers = choose_targets(STRUCTURE, Recipe(method="wanda", pattern="4:8", allocator="incremental"), 4).layers
    assert len({target.pattern.n for target in layers.values()}) > 1
    assert all(target.pattern.m == 8 and 0 < target.pattern.n < 8 for target in layers.values())
    removed = sum(layers[name].ratio * sizes[name] for name in sizes)
    assert abs(removed - sum(sizes.values()) / 2) <= max(sizes.values()) / 8


def test_a_layers_own_ratio_stands_above_its_blocks():
    own = {"model.layers.0": 0.2, "model.layers.0.mlp.up_proj": 0.3}
    layers = choose_targets(STRUCTURE, Recipe(method="magnitude", ratio=0.5, ratios=own), 4).layers
    assert layers["model.layers.0.mlp.up_proj"].ratio == pytest.approx(0.3, abs=1e-3)
    assert layers["model.layers.0.mlp.down_proj"].ratio == pytest.approx(0.2, abs=1e-3)
    assert layers["model.layers.1.mlp.up_proj"].ratio == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("unit", "each"), [("params", 1), ("bytes", 4)])
def test_a_budget_counts_a_tied_head_once(tied, unit, each, ids, tmp_path):
    config = LlamaConfig(**CONFIGS["llama"] | dict(tie_word_embeddings=tied, num_hidden_layers=4))
    LlamaForCausalLM(config).save_pretrained(tmp_path / "m")
    dense = Checkpoint(tmp_path / "m").size()[0]
    budget = int(0.8 * dense)
    recipe = Recipe(method="magnitude", pattern="channels", budget=f"{budget * each}-{unit}", round_to=1)
    result = prune(tmp_path / "m", recipe, tmp_path / "out", ids=ids)
    assert abs(Checkpoint(tmp_path / "out").size()[0] - budget) < 0.02 * budget  # whole channels of 32
    assert result.parameters[0] == dense

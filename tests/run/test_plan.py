from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from conftest import tiny_model
from secateur.core.errors import ModelError, PatternError
from secateur.core.mask import Masks
from secateur.run import plan as module
from secateur.run.plan import compute_dtype, half_products, make_plan, stream_settings
from secateur.run.prune import prune
from secateur.run.recipe import Recipe
from secateur.storage.open_model import open_model
from secateur.storage.source import Source


def test_every_choice_of_a_recipe_is_made_once(saved):
    opened = open_model(Source(saved("llama")))
    plan = make_plan(Recipe(method="wanda", ratio=0.5, save_dtype="float16"), opened)
    assert len(plan.targets.layers) == 14 and not plan.calibrated and plan.saved == torch.float16
    assert {target.ratio for target in plan.targets.layers.values()} == {0.5}


def test_a_calibrated_allocator_leaves_targets_open_until_ratios_are_given(saved):
    opened, recipe = open_model(Source(saved("llama"))), Recipe(method="wanda", ratio=0.3, allocator="owl", exempt=[0])
    assert make_plan(recipe, opened).calibrated
    ratios = dict.fromkeys((layer.name for layer in opened.structure.layers), 0.25)
    fixed = make_plan(recipe, opened, ratios)
    assert {target.ratio for target in fixed.targets.layers.values()} == {0.25} and fixed.recipe == recipe


def test_what_a_layer_cannot_do_is_refused_by_its_name(saved):
    with pytest.raises(PatternError, match=r"^model\.layers\.0\.self_attn\.q_proj: pattern 3:5"):
        make_plan(Recipe(method="wanda", pattern="3:5"), open_model(Source(saved("llama"))))
    with pytest.raises(ModelError, match="has no bias here"):
        make_plan(Recipe(method="flap", ratio=0.3), open_model(Source(saved("qwen3"))))


def test_two_plans_differ_where_their_bits_would(saved, ids):
    opened, recipe = open_model(Source(saved("llama"))), Recipe(method="wanda", ratio=0.5)
    plan = make_plan(recipe, opened).to_dict(opened, ids)
    assert plan == make_plan(replace(recipe, out="elsewhere"), opened).to_dict(opened, ids)
    assert plan != make_plan(replace(recipe, ratio=0.4), opened).to_dict(opened, ids)
    assert plan != make_plan(recipe, opened).to_dict(opened, ids + 1)


def test_settings_follow_the_recipe():
    settings = stream_settings(Recipe(ratio=0.5, batch_tokens=7, memory_gb=0.5))
    assert (settings.batch_tokens, settings.memory) == (7, 1 << 29)
    assert compute_dtype(Recipe(ratio=0.5, dtype="bfloat16")) == torch.bfloat16


def test_auto_multiplies_in_half_where_weights_have_16_bits_and_it_pays(saved, tmp_path, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(saved("llama"), dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    half, wide = open_model(Source(tmp_path)), open_model(Source(saved("llama")))
    auto = Recipe(ratio=0.5)
    assert not half_products(auto, half)  # as the tests' machine is slow at it
    monkeypatch.setattr(module, "half_pays", lambda device: True)
    assert half_products(auto, half) and not half_products(auto, wide)
    assert not half_products(Recipe(ratio=0.5, reconstruct=3), half)
    assert half_products(Recipe(ratio=0.5, dtype="mixed"), wide)
    assert not half_products(Recipe(ratio=0.5, dtype="float32"), half)
    assert half_products(auto, wide, known=True) and not half_products(auto, half, known=False)
    assert make_plan(auto, half, half=True).settings.half


def test_mixed_is_refused_where_blocks_are_read_off_products(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    opened = open_model(Source(tmp_path))
    opened.structure = replace(opened.structure, kind=opened.structure.kind._replace(inferred=True))
    with pytest.raises(ModelError, match="mixed"):
        half_products(Recipe(ratio=0.5, dtype="mixed"), opened)


@pytest.mark.parametrize("method", ["sparsegpt", "wanda"])
def test_masks_of_half_products_are_almost_those_of_float32(method, saved, ids, tmp_path):
    results = {
        dtype: prune(saved("llama"), Recipe(method=method, ratio=0.5, dtype=dtype), tmp_path / dtype, ids=ids)
        for dtype in ("float32", "mixed")
    }
    assert [results[dtype].products for dtype in results] == ["float32", "bfloat16"]
    masks = [Masks.load(tmp_path / dtype / "masks.safetensors").keep for dtype in results]
    for name, keep in masks[0].items():
        assert (keep == masks[1][name]).double().mean() > 0.95, name
    assert any(not torch.equal(keep, masks[1][name]) for name, keep in masks[0].items()) or method == "wanda"

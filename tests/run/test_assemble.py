import pytest
import torch

from conftest import CONFIGS
from secateur.adapt.structure import describe
from secateur.core.cut import Cut
from secateur.run.prune import prune
from secateur.run.recipe import Recipe
from secateur.storage.source import Source, load_model
from secateur.surgery.shrink import cut_slices

IDS = torch.arange(3, 19)[None]


def masked_dense(dense, pruned, cut):
    """The dense model with the pruned model's column layers, zero where columns went."""
    model, small = load_model(Source(dense)), load_model(Source(pruned))
    structure = describe(model)
    layers = {layer.name: layer for layer in describe(small).layers}
    for block in structure.blocks:
        for site in block.sites():
            if site.name in cut.kept:
                layer = block.layer(site.layer)
                part = cut_slices([site], Cut({site.name: cut.kept[site.name]}))[site.layer]
                _, kept = part.kept(*layer.weight.shape)
                wide = torch.zeros_like(layer.weight)
                wide[:, kept] = layers[site.layer].weight
                layer.set_weight(wide)
    return model


@pytest.mark.parametrize("allocator", ["uniform", "incremental"])
@pytest.mark.parametrize("family", CONFIGS)
def test_the_shrunk_model_computes_what_the_masked_one_does(family, allocator, saved, ids, tmp_path):
    recipe = Recipe(method="slimgpt", ratio=0.4, allocator=allocator, round_to=1, batch_tokens=32)
    prune(saved(family), recipe, tmp_path / "out", ids=ids)
    cut = Cut.load(tmp_path / "out" / "cut.json")
    small = load_model(Source(tmp_path / "out"))
    expected = masked_dense(saved(family), tmp_path / "out", cut)(IDS).logits
    assert torch.allclose(small(IDS).logits, expected, atol=1e-4)
    dense = load_model(Source(saved(family)))
    before = sum(layer.size for layer in describe(dense).layers)
    after = sum(layer.size for layer in describe(small).layers)
    assert abs(after - 0.6 * before) <= 2 * 97
    for tokens in (
        small.generate(IDS, max_new_tokens=3, min_new_tokens=3, do_sample=False),
        small.generate(IDS, max_new_tokens=3, min_new_tokens=3, do_sample=False, use_cache=False),
    ):
        assert tokens.shape == (1, 19)

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from secateur.adapt.block_count import check_block_count
from secateur.core.errors import ModelError
from secateur.run.prune import prune
from secateur.run.recipe import Recipe
from secateur.storage.open_model import open_model
from secateur.storage.source import Source, load_as_saved, load_model, skeleton

COUNT = {"llama": "num_hidden_layers", "gpt2": "n_layer", "gpt_neox": "num_hidden_layers"}


def with_fewer(source, target, field, blocks):
    """The model with a config that asks for this many blocks."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    assert config[field] > blocks
    fewer = {"layer_types": config["layer_types"][:blocks]} if config.get("layer_types") else {}
    (target / "config.json").write_text(json.dumps(config | fewer | {field: blocks}))
    return target


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("family", COUNT)
def test_more_blocks_stored_than_the_config_asks_for_are_refused_by_name(family, bare, saved, ids, tmp_path):
    folder = with_fewer(saved(family, blocks=3), tmp_path / "m", COUNT[family], 2)
    if bare:  # saved from the body alone, without its prefix
        stored, prefix = load_file(folder / "model.safetensors"), skeleton(Source(folder)).model.base_model_prefix
        save_file(
            {name.removeprefix(f"{prefix}."): value for name, value in stored.items()},
            folder / "model.safetensors",
            {"format": "pt"},
        )
    with pytest.raises(ModelError, match=r"holds '.*\.2\..*', and its config asks for 2 blocks there: set"):
        prune(folder, Recipe(method="magnitude", ratio=0.5), tmp_path / "out", ids=ids)
    with pytest.raises(ModelError, match=r"holds '.*\.2\..*', and its config asks for 2 blocks there: set"):
        load_model(Source(folder))
    assert not (tmp_path / "out").exists()


def test_an_encoder_of_more_blocks_is_refused_too(saved_task, tmp_path):
    folder = with_fewer(saved_task("BertForSequenceClassification"), tmp_path / "m", "num_hidden_layers", 1)
    with pytest.raises(ModelError, match=r"holds 'bert\.encoder\.layer\.1\..*asks for 1 blocks"):
        load_as_saved(Source(folder))


EXTRAS = (
    "model.layers.0.self_attn.rotary_emb.inv_freq",
    "model.rotary_emb.inv_freq",
    "lm_head.weight",
    "lm_head.7.weight",
    "vision_tower.encoder.layers.9.mlp.fc1.weight",
    "model.vision_tower.layers.9.mlp.fc1.weight",
    "mtp.layers.5.weight",
    "transformer.h.9.attn.masked_bias",
    "score.weight",
)


@pytest.mark.parametrize("name", EXTRAS)
def test_other_tensors_that_the_model_has_not_are_accepted(name, saved, tmp_path):
    shutil.copytree(saved("llama"), tmp_path / "m")
    stored = load_file(tmp_path / "m" / "model.safetensors")
    extra = stored["model.embed_tokens.weight"].clone() if name == "lm_head.weight" else torch.ones(3)
    save_file({name: extra} | stored, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    source = Source(tmp_path / "m")
    open_model(source)
    assert load_model(source) is not None


def test_what_a_class_expects_beyond_its_blocks_is_accepted(saved, monkeypatch):
    model = skeleton(Source(saved("llama"))).model
    names = ["model.layers.2.shared_head.norm.weight"]
    with pytest.raises(ModelError, match="asks for 2 blocks"):
        check_block_count(model, names, "m")
    monkeypatch.setattr(model, "_keys_to_ignore_on_load_unexpected", [r"model\.layers\.2.*"])
    check_block_count(model, names, "m")
    assert model._keys_to_ignore_on_load_unexpected

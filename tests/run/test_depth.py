import json

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSequenceClassification,
)

from conftest import CONFIGS, tiny_model, tiny_tokenizer
from secateur.adapt.structure import describe
from secateur.core.errors import InputError, ModelError, RatioError, RecipeError
from secateur.evaluate.agreement import verify_folders
from secateur.run.depth import write_kept_blocks
from secateur.run.prune import prune
from secateur.run.recipe import Recipe
from secateur.solve.shortgpt import ShortGPT
from secateur.storage.open_model import open_model
from secateur.storage.run_folder import RunFolder
from secateur.storage.source import Source, load_model
from tiny_decoders import tiny_decoder
from tiny_pictures import tiny_pictures

SHORT = Recipe(method="shortgpt", ratio=1 / 3)


def with_an_idle_block(family, folder):
    """Three blocks, of which the middle one adds nothing to the residual."""
    model = tiny_model(family, blocks=3)
    for layer in [stage.layers[0] for stage in describe(model).blocks[1].stages if stage.name.endswith("_out")]:
        layer.module.weight.data.zero_()
        if layer.bias is not None:
            layer.module.bias.data.zero_()
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return model


@pytest.mark.parametrize("family", [name for name in CONFIGS if "postnorm" not in name and "gemma" not in name])
def test_an_idle_block_has_no_influence_and_its_removal_changes_no_logit(family, ids, tmp_path):
    dense = with_an_idle_block(family, tmp_path / "dense")
    result = prune(tmp_path / "dense", SHORT, tmp_path / "out", ids=ids)
    found = json.loads((tmp_path / "out" / "blocks.json").read_text())
    assert found["kept"] == [0, 2] and found["influence"][1] == pytest.approx(0.0, abs=1e-6)
    small = load_model(Source(tmp_path / "out"))
    assert small.config.num_hidden_layers == 2 and result.sparsity == pytest.approx(1 / 3)
    with torch.no_grad():
        torch.testing.assert_close(small(ids).logits, dense(ids).logits)
        torch.testing.assert_close(small.generate(ids, max_new_tokens=4), dense.generate(ids, max_new_tokens=4))


@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_loads_with_the_blocks_that_were_kept(family, saved, ids, tmp_path):
    prune(saved(family, blocks=3), SHORT, tmp_path / "out", ids=ids)
    kept = json.loads((tmp_path / "out" / "blocks.json").read_text())["kept"]
    dense, small = load_model(Source(saved(family, blocks=3))), load_model(Source(tmp_path / "out"))
    assert len(describe(small).blocks) == 2 == len(getattr(small.config, "layer_types", None) or kept)
    for old, block in zip(kept, describe(small).blocks, strict=True):
        expected = describe(dense).blocks[old].tensors().values()
        assert all(torch.equal(a, b) for a, b in zip(block.tensors().values(), expected, strict=True))


def test_a_model_shrunk_before_loses_blocks_too(saved, ids, tmp_path):
    cut = Recipe(method="slimgpt", ratio=0.3, round_to=1, allocator="incremental")
    prune(saved("llama", blocks=3), cut, tmp_path / "small", ids=ids)
    prune(tmp_path / "small", SHORT, tmp_path / "out", ids=ids)
    assert torch.isfinite(load_model(Source(tmp_path / "out"))(ids).logits).all()


def test_wrong_requests_are_refused_in_words(saved, ids, tmp_path):
    with pytest.raises(RatioError, match="removes none of 2 blocks: ask for at least 0.5"):
        prune(saved("llama"), Recipe(method="shortgpt", ratio=0.4), tmp_path / "out", ids=ids)
    assert (
        prune(saved("llama", blocks=3), Recipe(method="shortgpt", ratio=0.6), tmp_path / "a", ids=ids).sparsity < 0.34
    )
    with pytest.raises(RecipeError, match="go together"):
        Recipe(method="wanda", pattern="blocks", ratio=0.5)
    with pytest.raises(RecipeError, match="go together"):
        Recipe(method="shortgpt", pattern="heads+channels", ratio=0.5)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(InputError, match="already exists"):
        prune(saved("llama"), SHORT, tmp_path / "taken", ids=ids)


def position_dependent(family, folder, **fields):
    """A model of four blocks whose class derives what each block is from its place; the config does not list it."""
    settings = dict(CONFIGS[family]) | fields
    settings |= dict.fromkeys({"num_hidden_layers", "n_layer"} & settings.keys(), 4)
    config = AutoConfig.for_model(settings.pop("model_type", family), **settings)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.2)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    document = json.loads((folder / "config.json").read_text())
    document.pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(document | {"eos_token_id": [2, 3, 4, 5]}))


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("gemma2", {"sliding_window": 4}),
        ("gemma3_text", {"sliding_window": 4, "layer_types": None, "sliding_window_pattern": 2}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}),
        ("llama", {}),
    ],
)
def test_a_block_stays_what_its_place_made_it(family, fields, ids, tmp_path, monkeypatch):
    monkeypatch.setattr(ShortGPT, "keep", lambda self, influence, ratio: [1, 2])
    position_dependent(family, tmp_path / "dense", **fields)
    prune(tmp_path / "dense", Recipe(method="shortgpt", ratio=0.5), tmp_path / "out", ids=ids)
    document = json.loads((tmp_path / "out" / "config.json").read_text())
    assert document["eos_token_id"] == [2, 3, 4, 5]
    assert verify_folders(str(tmp_path / "dense"), str(tmp_path / "out"), tokens=16).logits < 1e-5


def test_what_no_config_can_hold_is_refused(ids, tmp_path, monkeypatch):
    monkeypatch.setattr(ShortGPT, "keep", lambda self, influence, ratio: [1, 3])
    position_dependent("gpt2", tmp_path / "dense", scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(ModelError, match="derives that from a block's position"):
        prune(tmp_path / "dense", Recipe(method="shortgpt", ratio=0.5), tmp_path / "out", ids=ids)
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_a_config_may_leave_the_number_of_blocks_to_its_class(family, ids, tmp_path):
    small = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 101, "ffn_dim": 24}
    small |= {"word_embed_proj_dim": 16, "max_position_embeddings": 64, "n_embd": 16, "n_head": 2}
    config = AutoConfig.for_model(family, **small)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "dense")
    path = tmp_path / "dense" / "config.json"
    document = json.loads(path.read_text())
    kept = {key: value for key, value in document.items() if key not in ("n_layer", "num_hidden_layers", "layer_types")}
    path.write_text(json.dumps(kept))
    prune(tmp_path / "dense", Recipe(method="shortgpt", ratio=0.5), tmp_path / "out", ids=ids)
    assert load_model(Source(tmp_path / "out")).config.num_hidden_layers == config.num_hidden_layers // 2


INFERRED = [("vit", None), ("clip", None), ("vit_msn", None)]
INFERRED += [(name, AutoModelForSequenceClassification) for name in ("deberta-v2", "mpnet", "bert")]
INFERRED += [(name, AutoModelForImageTextToText) for name in ("llava", "qwen3_vl", "paligemma")]
INFERRED += [(name, AutoModelForCausalLM) for name in ("mixtral", "qwen3_moe", "gpt_oss", "deepseek_v2", "glm4_moe")]


@pytest.mark.parametrize(("name", "auto"), INFERRED, ids=[name for name, _ in INFERRED])
def test_blocks_are_renumbered_under_whatever_names_they_are_stored(name, auto, tmp_path):
    dense = tiny_pictures(name) if auto is None else tiny_decoder(name, auto)
    dense.save_pretrained(tmp_path / "dense")
    opened = open_model(Source(tmp_path / "dense"))
    places = {block.name: number for number, block in enumerate(opened.structure.blocks)}
    folder = RunFolder(tmp_path / "out")
    folder.open({}, resume=False)
    write_kept_blocks(opened, folder, [0, 2], [1.0, 0.0, 1.0])
    small, report = type(dense).from_pretrained(folder.model, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "mismatched_keys", "unexpected_keys"))
    wide, narrow = (dict(one.named_parameters()) for one in (type(dense).from_pretrained(tmp_path / "dense"), small))
    list_name = next(iter(places)).rpartition(".")[0]
    if not any(key.startswith(list_name) for key in narrow):
        list_name = list_name.rpartition("model.")[2]
    moved = 0
    for key, value in narrow.items():
        before, found, after = key.partition(f"{list_name}.1.")
        moved += bool(found)
        assert torch.equal(value, wide[f"{before}{list_name}.2.{after}" if found else key])
    assert moved >= 4
    folder.give_up()

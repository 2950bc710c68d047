"""Every decoder that transformers can build: pruned, written, loaded by plain transformers, and equal to its masks."""

import pytest
import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

from conftest import logging  # noqa: F401 - keeps transformers quiet
from secateur import Masks, Recipe, prune
from secateur.adapt.structure import kind_of
from secateur.core.cut import Cut
from secateur.core.errors import InputError, ModelError, RatioError, SecateurError
from secateur.infer.describe import infer
from tiny_decoders import batch, causal_types, tiny_decoder

SPREAD = (  # one of each kind of structure: parallel, hybrid, latent attention, experts of every layout, wrappers, ...
    "gemma gptj bart bert cohere2 falcon mpt xglm rwkv xlm mamba2 jamba falcon_h1 zamba2 deepseek_v3 gemma3n_text "
    "gemma3 mixtral gpt_oss llama4_text jetmoe qwen3_next nemotron_h zaya olmo2"
).split()


def saved_dense(name, folder):
    """What loads a type in plain transformers, and the dense model as it reads it from a folder.

    Its Auto class does not find the text models of some wrappers, and some types (youtu) do not come back as they were.
    """
    model = tiny_decoder(name)
    model.save_pretrained(folder)
    plain = AutoModelForCausalLM if type(model.config) in MODEL_FOR_CAUSAL_LM_MAPPING else type(model)
    return plain, plain.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)


def masked(name, folder, method, pattern):
    """The dense model with the masks of a run applied by hand, and the run's model in plain transformers."""
    plain, dense = saved_dense(name, folder / "dense")
    recipe = Recipe(method=method, pattern=pattern, ratio=0.5)
    result = prune(folder / "dense", recipe, folder / "pruned", ids=batch(6))
    pruned, report = plain.from_pretrained(folder / "pruned", output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"]
    places = dict(dense.named_parameters(remove_duplicate=False))
    for layer, keep in Masks.load(folder / "pruned" / "masks.safetensors").keep.items():
        own = next((places[place] for place in (f"{layer}.weight", layer) if place in places), None)
        if own is None:
            stack, _, number = layer.rpartition(".")
            own = places[stack][int(number)]
        found = dict(pruned.named_parameters(remove_duplicate=False))
        mask = keep if keep.shape == own.shape else keep.T
        with torch.no_grad():
            other = _of(found, layer)
            if keep.shape == own.shape[::-1] and other[~mask].any():  # square, and stored the other way
                mask = mask.T
            own.copy_(torch.where(mask, own if method != "sparsegpt" else other, 0))
    return dense, pruned.eval(), result


def _of(places, layer):
    for place in (f"{layer}.weight", layer):
        if place in places:
            return places[place]
    stack, _, number = layer.rpartition(".")
    return places[stack][int(number)]


def check_type(name, folder, method, pattern):
    dense, pruned, result = masked(name, folder, method, pattern)
    with torch.no_grad():
        expected, found = (model(batch(), use_cache=False).logits for model in (dense, pruned))
    assert torch.isfinite(found).all() and torch.equal(expected, found)
    assert abs(result.sparsity - 0.5) < 0.02
    own, other = dict(dense.named_parameters()), dict(pruned.named_parameters())
    assert all(torch.equal(value, other[key]) for key, value in own.items())


@pytest.mark.parametrize("name", SPREAD)
def test_a_pruned_model_is_the_dense_one_with_its_masks(name, tmp_path):
    check_type(name, tmp_path, "wanda", "row")


@pytest.mark.parametrize("name", ["gemma", "mixtral", "jamba", "deepseek_v3", "gpt_oss"])
def test_so_does_2_4_with_repair(name, tmp_path):
    check_type(name, tmp_path, "sparsegpt", "2:4")


@pytest.mark.slow
@pytest.mark.parametrize("name", causal_types())
def test_so_does_every_type_that_can_be_built(name, tmp_path):
    try:
        tiny_decoder(name)
    except Exception as error:
        pytest.skip(f"{name} cannot be built: {error}")
    check_type(name, tmp_path, "sparsegpt", "2:4")


@pytest.mark.parametrize("name", ["gemma", "zamba", "gemma3n_text"])
def test_a_resumed_run_gives_the_same_bits(name, tmp_path, monkeypatch):
    tiny_decoder(name).save_pretrained(tmp_path / "dense")
    recipe = Recipe(method="sparsegpt", ratio=0.5)
    prune(tmp_path / "dense", recipe, tmp_path / "once", ids=batch(4))

    def stop(block, blocks):
        if block == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune(tmp_path / "dense", recipe, tmp_path / "twice", ids=batch(4), progress=stop)
    result = prune(tmp_path / "dense", recipe, tmp_path / "twice", ids=batch(4), resume=True)
    assert result.resumed_blocks == 2
    once, twice = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("once", "twice"))
    assert once == twice


def test_cold_experts_are_counted_and_never_zeroed(tmp_path):
    model = tiny_decoder("mixtral")
    model.save_pretrained(tmp_path / "dense")
    for by in ("layer", "magnitude"):
        recipe = Recipe(method="wanda", ratio=0.5, expert_tokens=1000, cold_experts=by)
        result = prune(tmp_path / "dense", recipe, tmp_path / by, ids=batch(4))
        assert result.cold_experts == {by: 24} and result.to_dict()["cold_experts"] == {by: 24}
        assert all(abs(layer.sparsity - 0.5) < 0.02 for layer in result.layers)
    result = prune(tmp_path / "dense", Recipe(method="wanda", ratio=0.5, expert_tokens=1), tmp_path / "c", ids=batch(4))
    assert result.cold_experts == {}
    assert sum(layer.tokens for layer in result.layers if "gate_up_proj" in layer.name) == 3 * 2 * 64


def check_units(name, folder, method):
    """A model without units is the dense one where nothing reads them; masks alone, so that no weight is repaired."""
    plain, dense = saved_dense(name, folder / "dense")
    recipe = Recipe(method=method, pattern="heads+channels", ratio=0.15)
    result = prune(folder / "dense", recipe, folder / "out", ids=batch(6))
    small, report = plain.from_pretrained(folder / "out", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "mismatched_keys", "unexpected_keys"))
    assert dense.num_parameters() - small.num_parameters() == result.removed_weights > 0
    if method == "wanda":
        structure, cut = infer(dense), Cut.load(folder / "out" / "cut.json")
        with torch.no_grad():
            for site in structure.sites():
                gone = [unit for unit in range(site.count) if unit not in cut.kept.get(site.name, range(site.count))]
                structure.layer(site.layer).weight[:, site.columns[site.layer][gone].flatten()] = 0
        expected, found = (model(batch(), use_cache=False).logits for model in (dense, small))
        assert torch.allclose(expected, found, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("method", ["wanda", "slimgpt"])
@pytest.mark.parametrize("name", ["gemma", "mixtral", "gpt_oss", "deepseek_v3", "qwen3_next", "gptj", "gemma3"])
def test_units_go_with_all_that_belongs_to_them(name, method, tmp_path):
    check_units(name, tmp_path, method)


@pytest.mark.slow
@pytest.mark.parametrize("name", causal_types())
def test_so_do_units_of_every_type_that_has_some(name, tmp_path):
    try:
        model = tiny_decoder(name)
    except Exception as error:
        pytest.skip(f"{name} cannot be built: {error}")
    kind = kind_of(model.config)
    if kind is not None and kind.causal:
        pytest.skip("its family has a row in the table")
    try:
        check_units(name, tmp_path, "wanda")
    except ModelError as error:
        assert "has no units that can be removed" in str(error)
    except RatioError as error:
        assert "hold too few" in str(error)


def test_blocks_keep_one_size_as_the_config_has_one(tmp_path):
    tiny_decoder("gemma").save_pretrained(tmp_path / "dense")
    recipe = Recipe(method="wanda", pattern="channels", ratio=0.2, exempt=(0,))
    with pytest.raises(InputError, match="must keep one size"):
        prune(tmp_path / "dense", recipe, tmp_path / "out", ids=batch(4))


@pytest.mark.parametrize("name", ["gemma", "mixtral", "rwkv"])
@pytest.mark.parametrize(
    "settings",
    [
        {"method": "magnitude"},
        {"method": "ria"},
        {"method": "admm"},
        {"method": "refit"},
        {"method": "taylor", "pattern": "unstructured"},
        {"method": "wanda", "allocator": "owl"},
        {"method": "wanda", "allocator": "ranking"},
        {"method": "wanda", "refit": "cg"},
        {"method": "wanda", "save_dtype": "bfloat16"},
    ],
    ids=lambda settings: " ".join(settings.values()),
)
def test_every_method_runs_on_inferred_stages(name, settings, tmp_path):
    tiny_decoder(name).save_pretrained(tmp_path / "dense")
    result = prune(tmp_path / "dense", Recipe(ratio=0.5, **settings), tmp_path / "out", ids=batch(4))
    assert abs(result.sparsity - 0.5) < 0.02
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out")(batch()).logits.isfinite().all()


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("gemma", {"method": "wanda", "match": "dense"}, "match does not work for gemma"),
        ("gemma", {"method": "slimgpt", "allocator": "unit-knapsack"}, "one for all blocks"),
        ("gemma", {"method": "flap"}, "has no bias here"),
        ("mixtral", {"method": "wanda", "allocator": "knapsack"}, "no module of its own whose outputs"),
        ("rwkv", {"method": "wanda", "reconstruct": 5}, "it counts as one block"),
        ("rwkv", {"method": "wanda", "allocator": "als"}, "it counts as one block"),
    ],
)
def test_what_needs_a_row_of_the_table_is_refused_in_a_sentence(name, settings, said, tmp_path):
    tiny_decoder(name).save_pretrained(tmp_path / "dense")
    with pytest.raises(SecateurError, match=said):
        prune(tmp_path / "dense", Recipe(ratio=0.2, **settings), tmp_path / "out", ids=batch(4))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "opt-postnorm", "bloom"])
def test_inferred_stages_give_the_tables_masks(name, saved, ids, tmp_path, monkeypatch):
    recipe = Recipe(method="sparsegpt", ratio=0.5)
    prune(saved(name), recipe, tmp_path / "table", ids=ids)
    monkeypatch.setattr("secateur.storage.source.describe_decoder", infer)
    prune(saved(name), recipe, tmp_path / "inferred", ids=ids)
    assert (tmp_path / "inferred" / "structure.json").exists() and not (tmp_path / "table" / "structure.json").exists()
    ours, theirs = (Masks.load(tmp_path / place / "masks.safetensors").keep for place in ("inferred", "table"))
    assert ours.keys() == theirs.keys()
    differ = sum(int((ours[layer] != theirs[layer]).sum()) for layer in ours)
    assert differ <= 0.002 * sum(mask.numel() for mask in ours.values())  # sums of floats in another order

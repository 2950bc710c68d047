import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import CONFIGS
from secateur.core.cut import Cut
from secateur.core.errors import DisagreementError, InputError, NumericalError
from secateur.core.files import read_document, write_document
from secateur.core.mask import Masks
from secateur.evaluate.agreement import Zeros, verify_folders
from secateur.heads.prune import prune_heads
from secateur.heads.task_model import open_task_model
from secateur.run.prune import prune
from secateur.run.recipe import Recipe


@pytest.mark.parametrize("pattern", ["heads+channels", "query-heads+channels", "channels"])
def test_folders_that_belong_together_agree(pattern, saved, ids, tmp_path):
    prune(saved("llama"), Recipe(method="slimgpt", pattern=pattern, ratio=0.4, round_to=1), tmp_path / "out", ids=ids)
    assert verify_folders(str(saved("llama")), str(tmp_path / "out")).logits < 1e-4
    with pytest.raises(InputError, match=r"no cut\.json"):
        verify_folders(str(saved("llama")), str(saved("llama")))
    with pytest.raises((InputError, NumericalError), match="they are no pair"):
        verify_folders(str(saved("qwen2")), str(tmp_path / "out"))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(method="wanda", ratio=0.3, exempt=(0,)),
        Recipe(method="sparsegpt", pattern="2:4"),
        Recipe(method="magnitude", ratio=0.5, save_dtype="bfloat16"),
        Recipe(method="sparsegpt", ratio=0.5, reconstruct={"steps": 2}),
    ],
)
def test_zeros_are_where_the_masks_say_and_nothing_else_changed(recipe, family, saved, ids, tmp_path):
    result = prune(saved(family), recipe, tmp_path / "out", ids=ids)
    found = verify_folders(str(saved(family)), str(tmp_path / "out"))
    lost = [layer.weights for layer in result.layers if layer.sparsity]
    assert found == Zeros(len(lost), sum(lost), result.removed_weights)
    weights = load_file(tmp_path / "out" / "model.safetensors")
    name = result.layers[0].name + ".weight"
    norm = next(name for name, tensor in weights.items() if (tensor.dim() == 1 and "norm" in name) or "ln_" in name)
    for spoiled in (name, norm):
        save_file(weights | {spoiled: weights[spoiled] + 1}, tmp_path / "out" / "model.safetensors", {"format": "pt"})
        with pytest.raises(DisagreementError, match=re.escape(spoiled.removesuffix(".weight"))):
            verify_folders(str(saved(family)), str(tmp_path / "out"))


def test_masks_that_tell_less_and_configs_that_tell_other_things_are_found_out(saved, ids, tmp_path):
    out = tmp_path / "out"
    prune(saved("llama"), Recipe(method="wanda", ratio=0.5), out, ids=ids)
    assert verify_folders(str(saved("llama")), str(out)).layers == 14
    masks = Masks.load(out / "masks.safetensors").keep
    first = next(iter(masks))
    (out / "masks.safetensors").unlink()
    Masks(masks | {first: torch.ones_like(masks[first])}).save(out / "masks.safetensors")
    with pytest.raises(DisagreementError, match=re.escape(first)):
        verify_folders(str(saved("llama")), str(out))
    (out / "result.json").unlink()  # then nothing tells but the weights
    with pytest.raises(DisagreementError, match=re.escape(first)):
        verify_folders(str(saved("llama")), str(out))
    (out / "masks.safetensors").unlink()
    Masks(masks).save(out / "masks.safetensors")
    config = read_document(out / "config.json")
    for key, value in (("rms_norm_eps", 0.5), ("hidden_act", "relu")):
        write_document(out / "config.json", config | {key: value})
        with pytest.raises(DisagreementError, match=key):
            verify_folders(str(saved("llama")), str(out))


def test_masks_of_another_model_are_no_pair(saved, ids, tmp_path):
    prune(saved("llama"), Recipe(method="wanda", ratio=0.5), tmp_path / "out", ids=ids)
    Masks({"model.layers.0.mlp.x": torch.ones(2, 2, dtype=torch.bool)}).save(tmp_path / "masks.safetensors")
    shutil.move(tmp_path / "masks.safetensors", tmp_path / "out" / "masks.safetensors")
    with pytest.raises(InputError, match="no such layer"):
        verify_folders(str(saved("llama")), str(tmp_path / "out"))


def test_models_that_lost_heads_agree_with_gates_at_zero(saved_task, labelled, tmp_path):
    folder = saved_task("BertForSequenceClassification")
    prune_heads(open_task_model(folder), (str(labelled), None), tmp_path / "out", 0.5)
    assert verify_folders(str(folder), str(tmp_path / "out"), tokens=16).logits < 1e-4
    with pytest.raises(InputError, match="they are no pair"):
        verify_folders(str(saved_task("RobertaForSequenceClassification")), str(tmp_path / "out"))
    cut = Cut.load(tmp_path / "out" / "cut.json")
    name = next(iter(cut.kept))
    Cut({**cut.kept, name: (3,)}).save(tmp_path / "out" / "cut.json")
    with pytest.raises(NumericalError, match="do not belong together"):
        verify_folders(str(folder), str(tmp_path / "out"), tokens=16)


def test_logits_are_judged_and_another_parents_cut_is_no_pair(saved, ids, tmp_path):
    recipe = Recipe(method="slimgpt", ratio=0.4, round_to=1)
    prune(saved("llama"), recipe, tmp_path / "out", ids=ids)
    weights = load_file(tmp_path / "out" / "model.safetensors")
    weights["model.norm.weight"] *= 1.5
    save_file(weights, tmp_path / "out" / "model.safetensors", {"format": "pt"})
    with pytest.raises(DisagreementError, match="logits differ"):
        verify_folders(str(saved("llama")), str(tmp_path / "out"))
    prune(saved("llama"), Recipe(method="slimgpt", ratio=0.2, round_to=1), tmp_path / "other", ids=ids)
    shutil.copyfile(tmp_path / "other" / "cut.json", tmp_path / "out" / "cut.json")
    with pytest.raises(InputError, match="come from another dense model"):
        verify_folders(str(saved("llama")), str(tmp_path / "out"))


@pytest.mark.parametrize("kept", [[0, 5], [], [1, 0], ["0"], None, [0, 0], [True]])
def test_damaged_lists_of_blocks_are_no_pair(kept, saved, ids, tmp_path):
    prune(saved("llama"), Recipe(method="shortgpt", ratio=0.5), tmp_path / "out", ids=ids)
    verify_folders(str(saved("llama")), str(tmp_path / "out"))
    write_document(tmp_path / "out" / "blocks.json", {"kept": kept})
    with pytest.raises(InputError, match="blocks.json keeps"):
        verify_folders(str(saved("llama")), str(tmp_path / "out"))


def test_a_second_run_carries_no_record_of_the_first(saved, ids, tmp_path):
    prune(saved("llama"), Recipe(method="slimgpt", ratio=0.4, round_to=1), tmp_path / "first", ids=ids)
    prune(tmp_path / "first", Recipe(method="wanda", ratio=0.5), tmp_path / "second", ids=ids)
    assert not (tmp_path / "second" / "cut.json").exists()
    prune(tmp_path / "first", Recipe(method="slimgpt", ratio=0.2, round_to=1), tmp_path / "third", ids=ids)
    assert verify_folders(str(tmp_path / "first"), str(tmp_path / "third")).logits < 1e-4


@pytest.mark.parametrize(
    "recipe", [{"method": "slimgpt"}, {"method": "shortgpt"}, {"method": "magnitude", "pattern": "channels"}]
)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_to_what_was_asked_is_no_disagreement(recipe, dtype, saved, ids, tmp_path):
    prune(saved("llama", 3), Recipe(**recipe, ratio=0.4, round_to=1, save_dtype=dtype), tmp_path / "out", ids=ids)
    assert verify_folders(str(saved("llama", 3)), str(tmp_path / "out")).logits < 1e-3


@pytest.mark.parametrize("family", [name for name in CONFIGS if not name.startswith("bloom")])
@pytest.mark.parametrize("allocator", ["uniform", "incremental"])
def test_query_heads_go_and_what_they_share_stays(family, allocator, saved, ids, tmp_path):
    recipe = Recipe(method="magnitude", pattern="query-heads+channels", ratio=0.4, allocator=allocator, round_to=1)
    prune(saved(family), recipe, tmp_path / "out", ids=ids)
    assert verify_folders(str(saved(family)), str(tmp_path / "out")).logits < 1e-4

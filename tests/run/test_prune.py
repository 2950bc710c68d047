import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import datetime

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import CONFIGS, run
from secateur.adapt.structure import describe
from secateur.calibrate.data import Calibration
from secateur.core.errors import CalibrationError, InputError, ModelError, NumericalError, PatternError
from secateur.core.mask import Masks
from secateur.evaluate.agreement import verify_folders
from secateur.evaluate.perplexity import token_losses
from secateur.run.prune import prune
from secateur.run.recipe import Recipe
from secateur.storage.source import Source, load, load_model, load_tokenizer

RELOAD = (
    "import sys, torch; from transformers import AutoModelForCausalLM; from safetensors.torch import save_file\n"
    "root, ids, logits = sys.argv[1], torch.arange(3, 19)[None], {}\n"
    "for name in sys.argv[2:]:\n"
    "    model = AutoModelForCausalLM.from_pretrained(f'{root}/{name}').eval()\n"
    "    logits[name] = model(ids).logits.detach().contiguous()\n"
    "assert not any(name.startswith('secateur') for name in sys.modules)\n"
    "save_file(logits, f'{root}/logits.safetensors')"
)


def weights(folder):
    return load_file(folder / "model.safetensors")


def pruned_names(folder):
    return [layer.name for layer in describe(load_model(Source(folder))).layers]


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("method", ["magnitude", "wanda", "ria", "sparsegpt", "refit"])
def test_every_family_and_method_meets_the_ratio_and_keeps_the_rest(family, method, saved, ids, tmp_path):
    recipe = Recipe(method=method, ratio=0.5, batch_tokens=32)
    result = prune(saved(family), recipe, tmp_path / "out", ids=ids)
    before, after = weights(saved(family)), weights(tmp_path / "out")
    masks = Masks.load(tmp_path / "out" / "masks.safetensors")
    names = pruned_names(tmp_path / "out")
    assert sorted(masks.keep) == sorted(names) == sorted(layer.name for layer in result.layers)
    assert result.sparsity == masks.sparsity == pytest.approx(0.5)
    assert before.keys() == after.keys()
    transposed = family == "gpt2"
    for name, tensor in after.items():
        layer = name.removesuffix(".weight")
        assert tensor.dtype == before[name].dtype
        if layer in masks.keep:
            keep = masks.keep[layer].T if transposed else masks.keep[layer]
            assert not tensor[~keep].any()
        else:
            assert torch.equal(tensor, before[name]), name


def test_saved_models_of_every_family_give_the_same_logits_in_a_new_process(saved, ids, tmp_path):
    for family in CONFIGS:
        prune(saved(family), Recipe(method="sparsegpt", pattern="2:4"), tmp_path / family, ids=ids)
    script = [sys.executable, "-c", RELOAD, str(tmp_path), *CONFIGS]
    subprocess.run(script, check=True, cwd=tmp_path, capture_output=True)
    reloaded = load_file(tmp_path / "logits.safetensors")
    for family in CONFIGS:
        ours = load_model(Source(tmp_path / family))(torch.arange(3, 19)[None]).logits
        assert torch.equal(reloaded[family], ours), family


def test_repeating_gives_the_same_bits_and_the_caller_sees_everything(saved, text, tmp_path):
    recipe = Recipe(ratio=0.5, calibration=module_calibration(text))
    seen = []
    first = prune(saved("llama"), recipe, tmp_path / "a", progress=lambda done, total: seen.append((done, total)))
    prune(saved("llama"), recipe, tmp_path / "b")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    assert seen == [(0, 2), (1, 2), (2, 2)]
    document = json.loads((tmp_path / "a" / "result.json").read_text())
    assert document == json.loads(json.dumps(first.to_dict()))
    assert document["calibration_tokens"] == 4 * 16 and document["recipe"]["ratio"] == 0.5
    assert {"config.json", "tokenizer.json", "generation_config.json"} <= {f.name for f in (tmp_path / "a").iterdir()}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def module_calibration(text):
    from secateur.calibrate.data import Calibration

    return Calibration(source=str(text), samples=4, length=16)


KILLED = (
    "import os, signal, sys; from secateur.run.prune import prune; from secateur.run.recipe import Recipe\n"
    "from safetensors.torch import load_file\n"
    "def progress(done, total):\n"
    "    if done == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
    "recipe, ids = Recipe(method=sys.argv[2], ratio=0.5, **eval(sys.argv[5])), load_file(sys.argv[4])['ids']\n"
    "prune(sys.argv[1], recipe, sys.argv[3], ids=ids, progress=progress)"
)


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("sparsegpt", {}),
        ("magnitude", {}),
        ("admm", {"refit": "cg"}),
        ("wanda", {"reconstruct": {"steps": 3}}),
        ("magnitude", {"reconstruct": {"steps": 3}}),
        ("slimgpt", {"reconstruct": {"steps": 3}, "round_to": 1}),
    ],
)
def test_a_killed_run_resumes_to_the_same_bits(method, more, saved, ids, tmp_path):
    folder = saved("llama", blocks=4)
    save_file({"ids": ids}, tmp_path / "ids.safetensors")
    recipe = Recipe(method=method, ratio=0.5, **more)
    prune(folder, recipe, tmp_path / "whole", ids=ids)
    script = [
        sys.executable,
        "-c",
        KILLED,
        str(folder),
        method,
        str(tmp_path / "out"),
        str(tmp_path / "ids.safetensors"),
        repr(more),
    ]
    died = subprocess.run(script, capture_output=True, env={**os.environ})
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert not (tmp_path / "out").exists() and (tmp_path / "out.partial").is_dir()
    with pytest.raises(InputError, match="unfinished run"):
        prune(folder, recipe, tmp_path / "out", ids=ids)
    result = prune(folder, recipe, tmp_path / "out", ids=ids, resume=True)
    units = method == "slimgpt"
    assert result.resumed_blocks == 2 and len(result.layers) == 4 * (2 if units else 7)
    for name in ("model.safetensors", "cut.json" if units else "masks.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "out.partial").exists()


def test_bfloat16_checkpoints_stay_bfloat16(saved, ids, tmp_path):
    load_model(Source(saved("llama")), torch.bfloat16).save_pretrained(tmp_path / "half")
    for dtype in ("auto", "bfloat16"):
        prune(tmp_path / "half", Recipe(method="sparsegpt", ratio=0.5, dtype=dtype), tmp_path / dtype, ids=ids)
        after = weights(tmp_path / dtype)
        assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
        assert int((after["model.layers.0.mlp.up_proj.weight"] == 0).sum()) == 48 * 16


def test_an_allocation_overrides_the_ratio_where_it_says(saved, ids, tmp_path):
    name = "model.layers.1.mlp.down_proj"
    recipe = Recipe(method="wanda", ratio=0.5, ratios={name: 0.25})
    result = prune(saved("llama"), recipe, tmp_path / "out", ids=ids)
    assert {layer.name: layer.sparsity for layer in result.layers}[name] == 0.25
    with pytest.raises(InputError, match="'model.layers.7', which is no block or layer"):
        prune(saved("llama"), Recipe(ratio=0.5, ratios={"model.layers.7": 0.1}), tmp_path / "b", ids=ids)


def test_sharded_checkpoints_give_the_same_model(saved, ids, tmp_path):
    load_model(Source(saved("llama"))).save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 2
    prune(saved("llama"), Recipe(ratio=0.5), tmp_path / "a", ids=ids)
    prune(tmp_path / "shards", Recipe(ratio=0.5), tmp_path / "b", ids=ids)
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda ids: ids + 1000, InputError, "vocabulary of 99"),
        (lambda ids: ids[:, :0], CalibrationError, "empty"),
    ],
)
def test_bad_ids_are_refused(change, error, message, saved, ids, tmp_path):
    with pytest.raises(error, match=message):
        prune(saved("llama"), Recipe(ratio=0.5), tmp_path / "out", ids=change(ids))
    assert not list(tmp_path.iterdir())


def test_nan_in_calibration_names_block_and_layer(saved, ids, tmp_path):
    source = tmp_path / "m"
    load_model(Source(saved("llama"))).save_pretrained(source)
    tensors = weights(source)
    tensors["model.layers.1.input_layernorm.weight"] *= 1e38
    tensors["model.layers.0.mlp.down_proj.weight"] *= 1e4
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        CalibrationError, match=r"model\.layers\.1\.self_attn\.\w+: calibration activations hold NaN or inf"
    ):
        prune(source, Recipe(ratio=0.1), tmp_path / "out", ids=ids)
    assert not (tmp_path / "out").exists()


def test_a_width_that_does_not_fit_names_the_layer(saved, ids, tmp_path):
    with pytest.raises(PatternError, match=r"model\.layers\.0\.self_attn\.q_proj: .* multiple of 7, got 32"):
        prune(saved("llama"), Recipe(pattern="2:7"), tmp_path / "out", ids=ids)
    assert not list(tmp_path.iterdir())


def test_a_truncated_checkpoint_leaves_nothing_behind(saved, ids, tmp_path):
    source = tmp_path / "m"
    source.mkdir()
    (source / "config.json").write_text((saved("llama") / "config.json").read_text())
    (source / "model.safetensors").write_bytes((saved("llama") / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(ModelError, match="truncated"):
        prune(source, Recipe(ratio=0.5), tmp_path / "out", ids=ids)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.skipif(sys.platform != "linux", reason="limits file sizes the Linux way")
def test_a_disk_that_fills_up_is_one_sentence_and_the_run_goes_on_later(saved, ids, tmp_path):
    script = (
        "import resource, signal, sys; from secateur.run.prune import prune; from secateur.run.recipe import Recipe\n"
        "from safetensors.torch import load_file; from secateur.core.errors import StorageError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "ids = load_file(sys.argv[3])['ids']\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30000, resource.RLIM_INFINITY))\n"
        "try: prune(sys.argv[1], Recipe(ratio=0.5), sys.argv[2], ids=ids)\n"
        "except StorageError as error: print(error); sys.exit(2)"
    )
    save_file({"ids": ids}, tmp_path / "ids.safetensors")
    command = [
        sys.executable,
        "-c",
        script,
        str(saved("llama")),
        str(tmp_path / "out"),
        str(tmp_path / "ids.safetensors"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "cannot be written" in done.stdout, done.stderr
    assert not (tmp_path / "out").exists()
    prune(saved("llama"), Recipe(ratio=0.5), tmp_path / "out", ids=ids, resume=True)
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("method", ["taylor", "flap", "fluctuation"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_units_chosen_by_gradient_or_variance_go_and_the_model_loads(method, family, saved, ids, tmp_path):
    recipe = Recipe(method=method, ratio=0.25, round_to=1)
    result = prune(saved(family), recipe, tmp_path / "out", ids=ids)
    assert result.calibration_tokens == ids.numel() and 0.15 < result.sparsity < 0.35
    assert torch.isfinite(load_model(Source(tmp_path / "out"))(ids).logits).all()


@pytest.mark.parametrize("pattern", ["heads+channels", "channels", "unstructured"])
@pytest.mark.parametrize("family", ["llama", "llama-mqa", "gpt2", "opt"])
def test_flaps_bias_is_saved_with_the_model(family, pattern, saved, ids, tmp_path):
    recipe = Recipe(method="flap", pattern=pattern, ratio=0.4, round_to=1)
    plain = replace(recipe, method="fluctuation")
    for method, out in ((recipe, tmp_path / "out"), (plain, tmp_path / "plain")):
        prune(saved(family), method, out, ids=ids)
    found, without = load_model(Source(tmp_path / "out")), load_model(Source(tmp_path / "plain"))
    dense = {layer.name: layer for layer in describe(load_model(Source(saved(family)))).layers}
    moved = 0
    for layer, other in zip(describe(found).layers, describe(without).layers, strict=True):
        assert layer.bias is not None and torch.isfinite(layer.bias).all()
        if layer.weight.shape[0] == dense[layer.name].weight.shape[0]:
            before = torch.zeros_like(layer.bias) if other.bias is None else other.bias
            moved += not torch.equal(layer.bias, before)
    assert moved >= (2 if pattern == "channels" else 4)  # what ffn, and attention, put out in both blocks
    if pattern != "unstructured":
        assert verify_folders(str(saved(family)), str(tmp_path / "out")).logits < 1e-4


def test_flap_refuses_models_that_cannot_hold_a_bias(saved, ids, tmp_path):
    with pytest.raises(ModelError, match="MistralForCausalLM has no bias here"):
        prune(saved("mistral"), Recipe(method="flap", ratio=0.4), tmp_path / "out", ids=ids)
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


def stop_after(blocks):
    def progress(done, total):
        if done == blocks:
            raise KeyboardInterrupt

    return progress


def test_other_weights_of_equal_size_are_not_mixed_in(saved, ids, tmp_path):
    shutil.copytree(saved("llama"), tmp_path / "m")
    recipe = Recipe(method="wanda", ratio=0.5)
    with pytest.raises(KeyboardInterrupt):
        prune(tmp_path / "m", recipe, tmp_path / "out", ids=ids, progress=stop_after(1))
    weights = load_file(tmp_path / "m" / "model.safetensors")
    save_file({name: value * 2 for name, value in weights.items()}, tmp_path / "m" / "model.safetensors")
    with pytest.raises(InputError, match="started with another model"):
        prune(tmp_path / "m", recipe, tmp_path / "out", ids=ids, resume=True)
    save_file(weights, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "m").rename(tmp_path / "elsewhere" / "m")  # content counts, not where it lies
    shutil.copyfile(saved("llama") / "model.safetensors", tmp_path / "elsewhere" / "m" / "model.safetensors")
    assert prune(tmp_path / "elsewhere" / "m", recipe, tmp_path / "out", ids=ids, resume=True).resumed_blocks == 1


@pytest.mark.parametrize("method", ["magnitude", "wanda", "slimgpt", "shortgpt"])
def test_nan_outside_the_blocks_is_refused_and_nothing_is_left(method, saved, ids, tmp_path):
    shutil.copytree(saved("qwen2"), tmp_path / "m")
    weights = load_file(tmp_path / "m" / "model.safetensors")
    weights["lm_head.weight"][3, 3] = float("nan")
    save_file(weights, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    with pytest.raises(NumericalError, match=r"lm_head\.weight holds NaN"):
        prune(tmp_path / "m", Recipe(method=method, ratio=0.5, round_to=1), tmp_path / "out", ids=ids)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["wanda", "slimgpt", "shortgpt"])
def test_weights_are_written_as_asked(method, saved, ids, tmp_path):
    recipe = Recipe(method=method, ratio=0.5, round_to=1, save_dtype="bfloat16")
    result = prune(saved("llama"), recipe, tmp_path / "out", ids=ids)
    assert load_model(Source(tmp_path / "out")).dtype == torch.bfloat16
    assert result.bytes[1] == 2 * result.parameters[1] and result.bytes[0] == 4 * result.parameters[0]


def test_a_result_says_what_when_and_how_it_went(saved, text, tmp_path):
    calibration = Calibration(source=str(text), samples=4, length=16)
    recipe = Recipe(method="slimgpt", ratio=0.5, round_to=1, calibration=calibration)
    result = prune(saved("llama"), recipe, tmp_path / "out")
    document = json.loads((tmp_path / "out" / "result.json").read_text())
    assert document["recipe"]["model"] == str(saved("llama")) and document["recipe"]["out"] == str(tmp_path / "out")
    assert document["trust_remote_code"] is False and datetime.fromisoformat(document["finished"])
    assert document["parameters"] == [load(saved("llama")).num_parameters(), load(tmp_path / "out").num_parameters()]
    held = document["held_out"]
    assert held["windows"] == 2 and held["length"] == 16
    used, kept = calibration.draw_held(load_tokenizer(Source(saved("llama"))), 2)
    after = float(token_losses(load_model(Source(tmp_path / "out")), kept).double().mean().exp())
    assert held["after"] == pytest.approx(after, rel=1e-4) and result.calibration_tokens == used.numel()


def test_a_finished_model_is_kept_where_its_perplexity_cannot_be_measured(saved, text, tmp_path, monkeypatch, capsys):
    def fail(*args):
        raise RuntimeError("size of tensor a\nmust match")

    monkeypatch.setattr("secateur.run.prune.streamed_perplexity", fail)
    options = f"--ratio 0.5 --calibration {text} --samples 4 --length 16".split()
    told = run(monkeypatch, capsys, "prune", saved("llama"), "--out", tmp_path / "out", "--method", "wanda", *options)
    assert told[0] == 0 and "fails when it is asked: RuntimeError: size of tensor a" in " ".join(told[1].split())
    assert load(tmp_path / "out").num_parameters() == load(saved("llama")).num_parameters()
    assert run(monkeypatch, capsys, "report", tmp_path / "out", "--out", tmp_path / "report.html")[0] == 0


def test_loading_a_model_of_unequal_blocks_warns_of_nothing(saved, ids, tmp_path):
    recipe = Recipe(method="slimgpt", ratio=0.4, round_to=1, allocator="incremental")
    prune(saved("llama"), recipe, tmp_path / "out", ids=ids)
    script = (
        "import sys, secateur, transformers\n"
        "for name in ('AutoModelForCausalLM', 'AutoModel'):\n"
        "    model = getattr(transformers, name).from_pretrained(sys.argv[1])\n"
        "    print(sum(value.numel() for value in model.base_model.parameters()))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "out"], capture_output=True, text=True)
    assert done.returncode == 0 and len(set(done.stdout.split())) == 1, done.stderr
    assert "global value" not in done.stderr


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_biases_that_a_method_adds_are_no_missing_tensors(family, saved, text, tmp_path):
    calibration = Calibration(source=str(text), samples=4, length=16)
    recipe = Recipe(method="flap", ratio=0.3, round_to=1, calibration=calibration)
    result = prune(saved(family), recipe, tmp_path / "out")
    assert result.held_out is not None and result.held_out["before"] != result.held_out["after"]


def test_a_second_run_is_refused_and_leaves_the_first_its_folder(saved, ids, tmp_path):
    recipe = Recipe(method="shortgpt", ratio=0.5)
    said = []

    def again(done, total):
        for resume in (False, True):
            with pytest.raises(InputError, match="another run is at work in"):
                prune(saved("llama"), recipe, tmp_path / "out", ids=ids, resume=resume)
            said.append((tmp_path / "out.partial" / "plan.json").exists())

    prune(saved("llama"), recipe, tmp_path / "out", ids=ids, progress=again)
    assert said and all(said) and (tmp_path / "out" / "result.json").exists()
    assert not (tmp_path / "out.partial").exists()


def test_a_model_in_memory_is_pruned_as_its_folder_is(saved, tmp_path):
    ids = torch.arange(64).reshape(4, 16) % 90 + 3
    recipe = Recipe(method="wanda", ratio=0.5)
    model = load_model(Source(saved("llama")))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = prune(model, recipe, tmp_path / "memory", ids=ids)
    prune(saved("llama"), recipe, tmp_path / "folder", ids=ids)
    one, other = weights(tmp_path / "memory"), weights(tmp_path / "folder")
    assert result.recipe["model"] == "LlamaForCausalLM in memory" and one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

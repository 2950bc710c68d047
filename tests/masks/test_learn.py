import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import secateur
from conftest import torchrun
from secateur.core.errors import InputError
from secateur.core.mask import Masks
from secateur.masks.learn import MaskTask, learn_masks
from secateur.masks.maskllm import MaskSettings
from secateur.run.prune import prune
from secateur.run.recipe import Recipe
from secateur.storage.source import Source, load_model

SETTINGS = MaskSettings(steps=6, batch=2, length=16, rate=0.05)
TASK = MaskTask(settings=SETTINGS, prior="magnitude", held=2, looks=3, half="no", device="cpu")


@pytest.mark.parametrize("scope", ["model", "block"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_weights_stay_and_zeros_are_2_of_4(family, scope, saved, text, tmp_path):
    dense = load_file(saved(family) / "model.safetensors")
    found = learn_masks(saved(family), str(text), tmp_path / "out", replace(TASK, scope=scope))
    keep = Masks.load(tmp_path / "out" / "masks.safetensors").keep
    after = load_file(tmp_path / "out" / "model.safetensors")
    for name, value in after.items():
        layer = name.removesuffix(".weight")
        if layer not in keep:
            assert torch.equal(value, dense[name]), name
            continue
        mask = keep[layer].T if family == "gpt2" else keep[layer]
        assert torch.equal(value, torch.where(mask, dense[name], 0)), name
        assert (keep[layer].reshape(len(keep[layer]), -1, 4).sum(dim=2) == 2).all()
    assert found["sparsity"] == 0.5
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == json.loads(json.dumps(found))
    assert not (tmp_path / "out.partial").exists()
    assert load_model(Source(tmp_path / "out")) is not None


def test_the_best_look_is_what_is_saved(saved, text, tmp_path):
    wild = replace(TASK, settings=replace(SETTINGS, rate=5.0))  # destroys what the prior had
    found = learn_masks(saved("llama"), str(text), tmp_path / "out", wild)
    looks = [look["held"] for look in found["looks"]]
    assert len(looks) == 4 and [look["step"] for look in found["looks"]] == [0, 2, 4, 6]
    assert found["looks"][0]["changed"] == 0 and found["looks"][-1]["changed"] > 0
    prune(saved("llama"), Recipe(method="magnitude", pattern="2:4"), tmp_path / "prior")
    same = looks[0] == min(looks)
    pair = [Masks.load(tmp_path / name / "masks.safetensors").keep for name in ("out", "prior")]
    assert all(torch.equal(pair[0][name], pair[1][name]) for name in pair[1]) == same


def test_blocks_are_nearer_to_the_dense_ones_than_under_the_prior(saved, text, tmp_path):
    task = replace(TASK, scope="block", settings=replace(SETTINGS, steps=40, rate=0.01))
    found = learn_masks(saved("llama"), str(text), tmp_path / "out", task)
    assert all(row["learned"] <= row["prior"] for row in found["blocks"])
    assert any(row["learned"] < 0.98 * row["prior"] for row in found["blocks"])


def test_refitted_weights_keep_the_masks_and_change(saved, text, tmp_path):
    for name, refit in (("plain", 0), ("refit", 10)):
        learn_masks(saved("llama"), str(text), tmp_path / name, replace(TASK, refit=refit))
    plain, refit = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "refit"))
    keep = Masks.load(tmp_path / "refit" / "masks.safetensors").keep
    for name, mask in keep.items():
        own = refit[f"{name}.weight"]
        assert not own[~mask].any() and not torch.equal(own, plain[f"{name}.weight"])


KILLED = """
import os, signal, sys
from secateur.masks.learn import learn_masks
sys.path.insert(0, {tests!r})
from masks.test_learn import TASK
from dataclasses import replace
def told(done, steps, word):
    if word.startswith({word!r}) and done == {at}: os.kill(os.getpid(), signal.SIGKILL)
learn_masks({model!r}, {text!r}, {out!r}, replace(TASK, scope={scope!r}), progress=told)
"""


@pytest.mark.parametrize(
    ("scope", "word", "at"), [("model", "held-out", 3), ("model", "held-out", 1), ("block", "blocks", 1)]
)
def test_a_killed_run_resumes_to_the_same_bits(scope, word, at, saved, text, tmp_path):
    task, out = replace(TASK, scope=scope), tmp_path / "out"
    learn_masks(saved("llama"), str(text), tmp_path / "whole", task)
    names = {"tests": str(Path(__file__).parents[1]), "model": str(saved("llama")), "text": str(text), "out": str(out)}
    code = KILLED.format(**names, scope=scope, word=word, at=at)
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.run([sys.executable, "-c", code], env=os.environ | threads)
    assert killed.returncode == -signal.SIGKILL and not out.exists()
    with pytest.raises(InputError, match="holds an unfinished run: add --resume"):
        learn_masks(saved("llama"), str(text), out, task)
    with pytest.raises(InputError, match="started with another settings"):
        learn_masks(saved("llama"), str(text), out, replace(task, settings=replace(SETTINGS, seed=7)), resume=True)
    learn_masks(saved("llama"), str(text), out, task, resume=True)
    pair = [(folder / "model.safetensors").read_bytes() for folder in (out, tmp_path / "whole")]
    assert pair[0] == pair[1] and not out.with_name("out.partial").exists()


@pytest.mark.parametrize("prior", ["none", "sparsegpt", "folder"])
def test_priors_may_be_nothing_a_method_or_a_folder(prior, saved, text, tmp_path):
    if prior == "folder":
        prune(saved("llama"), Recipe(method="magnitude", pattern="2:4"), tmp_path / "prior")
        prior = str(tmp_path / "prior")
    learn_masks(saved("llama"), str(text), tmp_path / "out", replace(TASK, prior=prior))
    left = [path.name for path in tmp_path.iterdir() if path.name not in ("out", "prior")]
    assert left == []


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"prior": "nothing"}, "is neither a method"),
        ({"device": "cuda:9"}, "is not there"),
        ({"prior": "slimgpt"}, "."),
    ],
)
def test_what_cannot_be_done_leaves_nothing_behind(wrong, why, saved, text, tmp_path):
    with pytest.raises(secateur.SecateurError, match=why):
        learn_masks(saved("llama"), str(text), tmp_path / "out", replace(TASK, **wrong))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["blocks", "size", "pattern"])
def test_a_prior_of_another_model_or_pattern_is_refused_with_its_layer(what, saved, text, tmp_path):
    model = {"blocks": saved("llama", blocks=1), "size": saved("qwen2")}.get(what, saved("llama"))
    recipe = Recipe(method="magnitude", pattern="2:4" if what != "pattern" else "unstructured", ratio=0.5)
    prune(model, recipe, tmp_path / "prior")
    if what == "size":
        keep = Masks.load(tmp_path / "prior" / "masks.safetensors").keep
        (tmp_path / "prior" / "masks.safetensors").unlink()
        Masks({name: mask[:4] for name, mask in keep.items()}).save(tmp_path / "prior" / "masks.safetensors")
    words = {
        "blocks": "has no mask of model.layers.1",
        "size": "has a mask of",
        "pattern": "q_proj: .* do not keep 2 of 4",
    }
    with pytest.raises(secateur.SecateurError, match=words[what]):
        learn_masks(saved("llama"), str(text), tmp_path / "out", replace(TASK, prior=str(tmp_path / "prior")))
    assert [path.name for path in tmp_path.iterdir()] == ["prior"]


@pytest.mark.parametrize("wrong", [{"scope": "layer"}, {"half": "maybe"}, {"held": 0}, {"refit": -1}])
def test_tasks_outside_their_range_are_refused(wrong):
    with pytest.raises(secateur.SecateurError):
        replace(TASK, **wrong)


TWO = """
import sys
from dataclasses import replace
from secateur.masks.learn import learn_masks
sys.path.insert(0, {tests!r})
from masks.test_learn import GENTLE
learn_masks({model!r}, {text!r}, {out!r}, GENTLE)
"""
GENTLE = replace(TASK, settings=replace(SETTINGS, rate=0.005))  # large steps would make rounding grow


def test_two_processes_learn_what_one_does_with_the_same_batch(saved, text, tmp_path):
    one = learn_masks(saved("llama"), str(text), tmp_path / "one", GENTLE)
    script = tmp_path / "two.py"
    names = {"tests": str(Path(__file__).parents[1]), "model": str(saved("llama")), "text": str(text)}
    script.write_text(TWO.format(**names, out=str(tmp_path / "two")))
    done = torchrun(script)
    assert done.returncode == 0, done.stderr[-2000:]
    two = json.loads((tmp_path / "two" / "result.json").read_text())
    for ours, theirs in zip(one["looks"], two["looks"], strict=True):
        assert ours["held"] == pytest.approx(theirs["held"], abs=2e-2)  # moments round to bfloat16
    pair = [Masks.load(tmp_path / name / "masks.safetensors").keep for name in ("one", "two")]
    same = sum(int((pair[0][name] == mask).sum()) for name, mask in pair[1].items())
    assert same > 0.98 * sum(mask.numel() for mask in pair[1].values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two", "two.py"]

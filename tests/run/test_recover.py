import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from secateur.core.errors import CalibrationError, InputError
from secateur.core.mask import Masks
from secateur.evaluate.agreement import verify_folders
from secateur.evaluate.perplexity import token_losses
from secateur.run.prune import prune
from secateur.run.recipe import Recipe
from secateur.run.recover import recover
from secateur.storage.source import Source, load_model
from secateur.train.loop import Loop
from secateur.train.recover import Training

SHORT = Training(steps=4, batch=2, length=16, rate=0.01)


@pytest.fixture
def zeroed(saved, ids, tmp_path):
    prune(saved("llama"), Recipe(method="wanda", pattern="2:4"), tmp_path / "zeroed", ids=ids)
    return tmp_path / "zeroed"


@pytest.mark.parametrize("rank", [0, 2])
def test_masks_hold_and_only_block_layers_change(rank, zeroed, text, tmp_path):
    training = Training(steps=4, batch=2, length=16, rate=0.01, rank=rank)
    found = recover(zeroed, str(text), tmp_path / "out", training)
    masks = Masks.load(tmp_path / "out" / "masks.safetensors").keep
    before, after = load_file(zeroed / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    for name, value in after.items():
        layer = name.removesuffix(".weight")
        assert torch.equal(value, before[name]) == (layer not in masks), name
        if layer in masks:
            assert not value[~masks[layer]].any()
    document = json.loads((tmp_path / "out" / "recover.json").read_text())
    assert document == found and document["training"]["rank"] == rank
    assert document["windows"] == 2 and document["out"] == str(tmp_path / "out")
    assert not (tmp_path / "out.partial").exists()


def test_losses_before_and_after_are_of_the_same_windows_that_were_not_trained_on(zeroed, text, tmp_path, monkeypatch):
    trained = []
    step = Loop.step
    monkeypatch.setattr(Loop, "step", lambda self, ids: (trained.append(ids), step(self, ids))[1])
    found = recover(zeroed, str(text), tmp_path / "out", Training(steps=60, batch=2, length=16, rate=0.01))
    numbers = [int(word[1:]) for word in text.read_text().split()]
    windows = torch.tensor(numbers[: 25 * 16]).reshape(25, 16)
    seen = torch.cat(trained)
    starts = [next(at for at in range(385) if numbers[at : at + 16] == row) for row in seen.tolist()]
    free = [place for place in range(25) if all(abs(start - 16 * place) >= 16 for start in starts)]
    assert len(starts) == 120 and len(free) == found["windows"] == 2  # all others were touched
    assert (found["model"], found["text"], found["teacher"]) == (str(zeroed), str(text), None)
    for folder, name in ((zeroed, "before"), (tmp_path / "out", "after")):
        expected = float(token_losses(load_model(Source(folder)), windows[free]).mean())
        assert found[name] == pytest.approx(expected, rel=1e-4)


def test_training_with_a_rate_of_nothing_changes_no_loss(zeroed, text, tmp_path):
    found = recover(zeroed, str(text), tmp_path / "out", Training(steps=4, batch=2, length=16, rate=1e-30))
    assert found["before"] == found["after"]


@pytest.mark.parametrize("length", [None, 65])
def test_windows_are_no_longer_than_the_models_positions(length, saved, text, tmp_path):
    training = Training(steps=1, batch=1, length=length)
    if length is None:
        assert recover(saved("gpt2"), str(text), tmp_path / "out", training)["training"]["length"] == 64
        return
    with pytest.raises(InputError, match="65 tokens are longer than the 64 positions"):
        recover(saved("gpt2"), str(text), tmp_path / "out", training)
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
def test_a_shrunk_model_keeps_its_shapes_and_loads(family, saved, ids, text, tmp_path):
    recipe = Recipe(method="slimgpt", ratio=0.3, round_to=1, allocator="incremental")
    prune(saved(family, blocks=3), recipe, tmp_path / "small", ids=ids)
    recover(tmp_path / "small", str(text), tmp_path / "out", SHORT, teacher=str(saved(family, blocks=3)))
    small, trained = load_model(Source(tmp_path / "small")), load_model(Source(tmp_path / "out"))
    shapes = {name: value.shape for name, value in small.state_dict().items()}
    assert {name: value.shape for name, value in trained.state_dict().items()} == shapes
    assert not torch.equal(trained(ids).logits, small(ids).logits)
    assert verify_folders(str(saved(family, blocks=3)), str(tmp_path / "out")).logits < 1e-4


KILLED = (
    "import os, signal, sys; import secateur.run.recover as run; from secateur.train.recover import Training\n"
    "run._EVERY = 2\n"
    "def progress(done, total):\n"
    "    if done == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
    "training = Training(steps=4, batch=2, length=16, rate=0.01)\n"
    "run.recover(sys.argv[1], sys.argv[2], sys.argv[3], training, progress=progress)"
)


def test_a_killed_run_resumes_to_the_same_bits(zeroed, text, tmp_path):
    recover(zeroed, str(text), tmp_path / "whole", SHORT)
    script = [sys.executable, "-c", KILLED, str(zeroed), str(text), str(tmp_path / "out")]
    died = subprocess.run(script, capture_output=True, env={**os.environ})
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    with pytest.raises(InputError, match="unfinished run"):
        recover(zeroed, str(text), tmp_path / "out", SHORT)
    with pytest.raises(InputError, match="another steps"):
        recover(zeroed, str(text), tmp_path / "out", Training(steps=5, batch=2, length=16, rate=0.01), resume=True)
    seen = []
    recover(zeroed, str(text), tmp_path / "out", SHORT, resume=True, progress=lambda done, total: seen.append(done))
    assert seen == [2, 3, 4]
    whole, out = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "out"))
    assert all(torch.equal(value, out[name]) for name, value in whole.items())


def test_a_damaged_state_is_named(zeroed, text, tmp_path):
    script = [sys.executable, "-c", KILLED, str(zeroed), str(text), str(tmp_path / "out")]
    subprocess.run(script, capture_output=True)
    (tmp_path / "out.partial" / "training.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="is damaged"):
        recover(zeroed, str(text), tmp_path / "out", SHORT, resume=True)


def test_too_little_text_is_refused_before_anything_is_written(zeroed, tmp_path):
    (tmp_path / "short.txt").write_text("w3 w4 w5")
    with pytest.raises(CalibrationError, match="3 tokens"):
        recover(zeroed, str(tmp_path / "short.txt"), tmp_path / "out", SHORT)
    assert not (tmp_path / "out.partial").exists()

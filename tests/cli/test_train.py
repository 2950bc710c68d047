import json

import pytest
from typer.main import get_command

from conftest import options
from conftest import run as in_process
from secateur.cli.main import app
from secateur.core.mask import Masks


@pytest.fixture
def run(monkeypatch, capsys):
    return lambda *args: in_process(monkeypatch, capsys, *args)


def test_masks_are_learned_packed_compared_and_applied(run, saved, text, tmp_path):
    model, out = str(saved("llama")), tmp_path / "out"
    line = ("train", model, "--method", "maskllm", "--prior", "magnitude", "--text", text, "--steps", 2, "--length", 16)
    code, said, err = run(*line, "--rate", 5.0, "--device", "cpu", "--out", out)
    assert code == 0 and "50.00% of the weights in blocks" in said and "held-out loss" in said, err
    code, said, _ = run(*line, "--scope", "block", "--out", tmp_path / "blocks", "--json")
    assert code == 0 and len(json.loads(said)["blocks"]) == 2
    packed = tmp_path / "masks.nm"
    code, said, err = run("mask", "pack", out, "--dense", model, "--out", packed, "--json")
    assert code == 0 and json.loads(said)["layers"] == 14, err
    code, said, err = run("mask", "apply", model, packed, "--out", tmp_path / "again")
    assert code == 0, err
    pair = [(folder / "model.safetensors").read_bytes() for folder in (out, tmp_path / "again")]
    assert pair[0] == pair[1]
    code, said, _ = run("mask", "diff", out, packed, "--json")
    assert code == 0 and json.loads(said)["changed"] == 0
    code, said, _ = run("mask", "unpack", packed, "--out", tmp_path / "bits.safetensors")
    assert code == 0 and Masks.load(tmp_path / "bits.safetensors").sparsity == 0.5
    code, _, said = run("mask", "apply", str(saved("llama", blocks=3)), packed, "--out", tmp_path / "other")
    assert code == 2 and "was made for other weights" in said and not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--method", "s2h"), "method 's2h' learns widths and weights of a network"),
        (("--method", "maskllm"), "give --text FILE"),
        (("--text", "bundled", "--pattern", "row"), "is not n:m"),
        (("--text", "bundled", "--pattern", "8:16"), "at most 70"),
        (("--text", "bundled", "--prior", "slimgpt"), "slimgpt removes whole columns"),
        (("--text", "bundled", "--prior", "x/y"), "is neither a method"),
        (("--text", "bundled", "--scope", "layer"), "scope 'layer' is unknown"),
        (("--text", "bundled", "--device", "cuda:77"), "device 'cuda:77' is not there"),
        (("--images", "x"), "--images is for networks"),
        (("--text", "bundled", "--epochs", 3), "--epochs is for networks that read pictures"),
        (("--text", "bundled", "--round-to", 4), "--round-to is for networks that read pictures"),
    ],
)
def test_what_does_not_fit_is_refused(run, options, words, saved, tmp_path):
    code, _, said = run("train", str(saved("llama")), "--length", 16, "--steps", 1, *options, "--out", tmp_path / "out")
    assert code == 2 and words in said and not list(tmp_path.iterdir()), said


def test_the_mask_commands_are_as_reviewed():
    commands = get_command(app).commands["mask"].commands
    assert options(commands) == {
        "apply": "--json --out dense masks",
        "diff": "--json one other",
        "pack": "--dense --json --out --pattern masks",
        "unpack": "--json --out masks",
    }

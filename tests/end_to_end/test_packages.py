"""A package of another author: a family, a score and an allocator, used by the command line."""

import importlib
import json
import sys

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from conftest import LLAMA, run, tiny_tokenizer

PACKAGE = """
from dataclasses import dataclass

from secateur.adapt.decoder_table import Decoder
from secateur.core.allocation import Allocation

family = Decoder(free_heads=False, no_heads="its class counts KV heads of the hidden size")

@dataclass(frozen=True)
class Cube:
    power: float = 3.0
    needs = ()

    def __call__(self, weight, stats):
        return weight.abs() ** self.power

class LaterMore:
    def allocate(self, problem, ratio):
        middle = (len(problem.blocks) - 1) / 2
        return Allocation({name: ratio + (place - middle) / 10 for place, name in enumerate(problem.blocks)})
"""
ENTRIES = """
[secateur.families]
stablelm = later_more:family
[secateur.scores]
cube = later_more:Cube
[secateur.allocators]
later-more = later_more:LaterMore
[secateur.methods]
cubed = later_more_methods:cubed
"""
METHODS = """
from secateur.run.methods import Method
cubed = Method("mask-only", {"score": "cube"}, "row", "cubes of weights")
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    about = tmp_path / "site" / "later_more-0.1.dist-info"
    about.mkdir(parents=True)
    (about.parent / "later_more.py").write_text(PACKAGE)
    (about.parent / "later_more_methods.py").write_text(METHODS)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: later-more\nVersion: 0.1\n")
    (about / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(about.parent)
    importlib.invalidate_caches()
    yield
    for name in ("later_more", "later_more_methods"):
        sys.modules.pop(name, None)


@pytest.fixture
def stablelm(tmp_path):
    torch.manual_seed(0)
    config = AutoConfig.for_model("stablelm", **LLAMA)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "stablelm")
    tiny_tokenizer().save_pretrained(tmp_path / "stablelm")
    return tmp_path / "stablelm"


def test_without_the_package_the_family_is_read_off_a_run(monkeypatch, capsys, stablelm, text, tmp_path):
    data = ("--calibration", text, "--samples", 2, "--length", 16)
    args = ("prune", stablelm, "--ratio", 0.5, *data, "--out", tmp_path / "out")
    code, _, err = run(monkeypatch, capsys, *args)
    assert code == 0 and (tmp_path / "out" / "structure.json").exists(), err


def test_its_family_method_score_and_allocator_prune_a_model(package, monkeypatch, capsys, stablelm, text, tmp_path):
    data = ("--calibration", text, "--samples", 2, "--length", 16)
    args = ("prune", stablelm, "--method", "cubed", "--allocator", "later-more", "--ratio", 0.5, *data)
    code, printed, err = run(monkeypatch, capsys, *args, "--out", tmp_path / "out", "--json")
    assert code == 0, err
    result = json.loads(printed)
    assert result["sparsity"] == pytest.approx(0.5, abs=0.01)
    shares = {layer["name"].split(".")[2]: layer["sparsity"] for layer in result["layers"]}
    assert shares == {"0": pytest.approx(0.45, abs=0.02), "1": pytest.approx(0.55, abs=0.02)}
    (tmp_path / "r.yaml").write_text(
        "ratio: 0.25\npattern: row\nmethod: {name: magnitude, score: {name: cube, power: 2}}\n"
        f"model: {stablelm}\nout: {tmp_path / 'other'}\n"
    )
    code, printed, err = run(monkeypatch, capsys, "run", tmp_path / "r.yaml", "--json")
    assert code == 0 and json.loads(printed)["sparsity"] == pytest.approx(0.25, abs=0.01), err


def test_its_channels_can_be_removed(package, monkeypatch, capsys, stablelm, tmp_path):
    args = ("--method", "magnitude", "--pattern", "channels", "--round-to", 1, "--ratio", 0.3)
    code, _, err = run(monkeypatch, capsys, "prune", stablelm, *args, "--out", tmp_path / "small")
    assert code == 0, err
    code, printed, err = run(monkeypatch, capsys, "verify", stablelm, tmp_path / "small")
    assert code == 0 and "same" in printed, err


def test_its_names_are_listed_and_meant(package, monkeypatch, capsys, tmp_path):
    code, printed, _ = run(monkeypatch, capsys, "methods", "--json")
    rows = json.loads(printed)
    assert code == 0 and rows["score"]["cube"] == rows["allocator"]["later-more"] == "of package later-more 0.1"
    assert "cubed" in rows["method"] and "later_more" not in sys.modules
    args = ("--ratio", 0.5, "--method", "cubbed", "--out", tmp_path / "o")
    code, _, err = run(monkeypatch, capsys, "prune", "m", *args)
    assert code == 2 and "did you mean 'cubed'" in err

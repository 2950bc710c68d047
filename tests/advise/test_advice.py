import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import run, tiny_tokenizer, words
from secateur import Calibration, Recipe, prune
from secateur.advise import advice
from secateur.advise.advice import advise, measured
from secateur.core.errors import InputError, RatioError
from tiny_decoders import tiny_decoder

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(advice, "probe_decoding", lambda rows, columns: {"smaller": 1.3, "2:4": 1.02, "bitmask": 2.0})
    told = advice.describe_machine() | {"packed": {"2:4": True, "bitmask": True}}
    monkeypatch.setattr(advice, "describe_machine", lambda: told)


def test_figures_that_ship_are_those_of_the_benchmarks():
    done = subprocess.run([sys.executable, ROOT / "benchmarks" / "packaged.py", "--check"], capture_output=True)
    assert done.returncode == 0, done.stderr
    assert {row["kind"] for row in measured()["rows"]} == {"smaller", "zeros", "2:4"}


def test_choices_fit_the_model_and_the_best_comes_first(saved):
    told = advise(saved("llama"))
    smaller = [one for one in told["choices"] if one["kind"] == "physically removed"]
    assert smaller and told["command"] == told["choices"][0]["command"]
    assert [one["times_perplexity"] for one in smaller] == sorted(one["times_perplexity"] for one in smaller)
    assert all(one["speed"] == pytest.approx(1 / one["size"]) for one in smaller)
    assert next(one["speed"] for one in told["choices"] if one["kind"] == "zeros anywhere") == 2.0
    assert any(line.startswith("2:4 gives no speed-up here: its product is 1.02") for line in told["not_here"])


def test_a_target_becomes_a_ratio_and_what_is_out_of_reach_is_said(saved):
    whole = advise(saved("llama"))["model"]
    told = advise(saved("llama"), "0.8-params")
    assert told["choices"][0]["size"] == pytest.approx(0.8)
    ratio = 0.2 * whole["parameters"] / whole["block_weights"]
    assert f"--ratio {ratio:.2f}" in told["command"]
    size = round(0.8 * whole["parameters"])
    assert f"--budget {size}-params" in advise(saved("llama"), f"{size}-params")["command"]
    with pytest.raises(RatioError, match="out of reach"):
        advise(saved("llama"), "0.05-bytes")
    for target in ("0.5-macs", "20-ms"):
        with pytest.raises(InputError, match="share"):
            advise(saved("llama"), target)


@pytest.mark.parametrize(
    "name",
    ["mixtral", *(pytest.param(name, marks=pytest.mark.slow) for name in ("deepseek_v3", "zaya", "gemma", "gpt_oss"))],
)
def test_what_is_advised_runs(name, tmp_path):
    tiny_decoder(name).save_pretrained(tmp_path / "dense")
    tiny_tokenizer().save_pretrained(tmp_path / "dense")
    (tmp_path / "text.txt").write_text(words(400))
    told = advise(tmp_path / "dense")
    found = [one["what"] for one in told["choices"]]
    assert any(one.startswith("reap, ") for one in found) == (name in {"mixtral", "gpt_oss"})  # deepseek_v3 needs two
    assert ("slimgpt channels" in found) == (name != "zaya") and "flap" not in found
    for number, one in enumerate(told["choices"]):
        args = shlex.split(one["command"])[1:]
        model, *options = args[1:-2]
        recipe = dict(zip((option.removeprefix("--") for option in options[::2]), options[1::2], strict=True))
        recipe["ratio"] = float(recipe.pop("ratio", 0.5))
        calibration = Calibration(source=str(tmp_path / "text.txt"), samples=4, length=16)
        result = prune(model, Recipe(**recipe, calibration=calibration), tmp_path / f"out{number}")
        if one["kind"] == "physically removed":
            assert result.parameters[1] / result.parameters[0] == pytest.approx(one["size"], abs=0.04), one["what"]


def test_networks_are_sent_elsewhere():
    with pytest.raises(InputError, match="reads images"):
        advise("timm:resnet18")


def test_the_command_ends_with_what_to_type(monkeypatch, capsys, saved):
    code, printed, _ = run(monkeypatch, capsys, "advise", saved("llama"))
    lines = printed.splitlines()
    assert code == 0 and lines[-1].startswith("type: secateur prune ")
    assert "physically removed:" in lines and "2:4 zeros:" in lines
    code, printed, _ = run(monkeypatch, capsys, "advise", saved("llama"), "--json")
    assert code == 0 and json.loads(printed)["probes"]["bitmask"] == 2.0

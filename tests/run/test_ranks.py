"""Two processes that share the work of `prune`, and one that does it alone."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from conftest import torchrun
from secateur.core.mask import Masks

LENGTH = ["--length", "16", "--samples", "8"]
CASES = {
    "sparsegpt": ["--method", "sparsegpt", "--ratio", "0.5"],
    "reconstructed": ["--method", "wanda", "--pattern", "2:4", "--reconstruct", "2"],
    "knapsack, flap": ["--method", "wanda", "--ratio", "0.5", "--allocator", "knapsack"],
    "units": ["--method", "slimgpt", "--ratio", "0.25"],
    "taylor": ["--method", "taylor", "--ratio", "0.25"],
    "blocks": ["--method", "shortgpt", "--ratio", "0.5"],
}


def secateur(*args, processes=0):
    if processes:
        return torchrun("-m", "secateur", *args, processes=processes)
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-m", "secateur", *args], capture_output=True, text=True, env=env)


@pytest.mark.parametrize(
    "case", [pytest.param(name, marks=[] if name == "sparsegpt" else pytest.mark.slow) for name in CASES]
)
def test_two_processes_prune_as_one_does(case, saved, text, tmp_path):
    model, given = str(saved("llama")), [*CASES[case], "--calibration", str(text), *LENGTH]
    for name, processes in (("one", 0), ("two", 2)):
        done = secateur("prune", model, *given, "--out", str(tmp_path / name), processes=processes)
        assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("weights removed") == 1  # the first process speaks
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert {name: tensor.shape for name, tensor in one.items()} == {name: tensor.shape for name, tensor in two.items()}
    apart = max(float((one[name] - two[name]).abs().max() / one[name].abs().max().clamp_min(1e-9)) for name in one)
    assert apart < (0.05 if "reconstruct" in case else 1e-3)
    if (tmp_path / "one" / "masks.safetensors").exists():
        first, second = (Masks.load(tmp_path / name / "masks.safetensors").keep for name in ("one", "two"))
        assert all(torch.equal(first[name], second[name]) for name in first)
    told = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two")]
    assert [layer["name"] for layer in told[0]["layers"]] == [layer["name"] for layer in told[1]["layers"]]
    for ours, theirs in zip(told[0]["layers"], told[1]["layers"], strict=True):
        assert ours["sparsity"] == theirs["sparsity"]
        assert theirs["loss"] == (None if ours["loss"] is None else pytest.approx(ours["loss"], rel=2e-3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_more_processes_than_samples_end_with_one_sentence(saved, text, tmp_path):
    few = ["--calibration", str(text), "--length", "16", "--samples", "1"]
    given = ["prune", str(saved("llama")), "--ratio", "0.5", *few, "--out", str(tmp_path / "out")]
    done = secateur(*given, processes=2)
    assert done.returncode != 0 and "2 processes share 1 calibration samples" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_run_of_two_processes_resumes_as_two(saved, text, tmp_path):
    """A block that one process had finished and another had not is done again by both."""
    model = str(saved("llama", 3))
    given = ["prune", model, "--method", "sparsegpt", "--ratio", "0.5", "--calibration", str(text), *LENGTH]
    assert secateur(*given, "--out", str(tmp_path / "whole"), processes=2).returncode == 0
    script = tmp_path / "dies.py"
    script.write_text(
        "import os, sys\n"
        "from secateur.storage.run_folder import RunFolder\n"
        "save = RunFolder.save_block\n"
        "def dying(folder, index, block):\n"
        "    if index == 1 and os.environ['RANK'] == '1':\n"
        "        os._exit(9)\n"
        "    save(folder, index, block)\n"
        "RunFolder.save_block = dying\n"
        "from secateur.cli.main import main\n"
        "sys.argv = ['secateur', *sys.argv[1:]]\n"
        "main()\n"
    )
    out = str(tmp_path / "out")
    died = torchrun(script, *given, "--out", out)
    assert died.returncode != 0 and "--resume" in died.stderr, died.stderr[-3000:]
    lone = secateur(*given, "--out", out, "--resume")
    assert lone.returncode == 2 and "started with another processes" in lone.stderr
    done = secateur(*given, "--out", out, "--resume", processes=2)
    assert done.returncode == 0 and "1 blocks resumed" in done.stdout, done.stderr[-2000:]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "out"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dies.py", "out", "whole"]

import json
import shutil

import pytest

from conftest import run
from secateur.core.files import write_sealed


def test_a_recipe_runs(monkeypatch, capsys, saved, text, tmp_path):
    recipe = tmp_path / "r.yaml"
    lines = (
        f"model: {saved('llama')}\nmethod: ria\nratio: 0.25\ncalibration: {{source: {text}, samples: 2, length: 8}}\n"
    )
    recipe.write_text(lines)
    code, _, err = run(monkeypatch, capsys, "run", recipe)
    assert code == 2 and "needs a model and an out folder" in err
    code, printed, _ = run(monkeypatch, capsys, "run", recipe, "--out", tmp_path / "out", "--json")
    assert code == 0 and json.loads(printed)["sparsity"] == pytest.approx(0.25, abs=1e-3)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--ratio", "2"], "less than or equal to 1"),
        ([], "missing ratio"),
        (["--ratio", "0.5", "--method", "wnada"], "did you mean 'wanda'"),
        (["--ratio", "0.5", "--samples", "0"], "greater than or equal to 1"),
        (["--ratio", "0.5", "--calibration", "none.txt"], "cannot be read"),
        (["--ratio", "0.5", "--length", "5000"], "fewer than one sample"),
        (["--ratio", "0.5", "--dtype", "int4"], "dtype 'int4' is unknown"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_2(args, message, monkeypatch, capsys, saved, text, tmp_path):
    given = args if "--calibration" in args else [*args, "--calibration", text]
    code, out, err = run(monkeypatch, capsys, "prune", saved("llama"), "--out", tmp_path / "out", *given)
    assert code == 2 and message in err and "Traceback" not in err and not out
    assert err.strip().count("\n") == 0
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_one_sentence(monkeypatch, capsys, tmp_path):
    code, _, err = run(monkeypatch, capsys, "prune", tmp_path / "none", "--ratio", 0.5, "--out", tmp_path / "out")
    assert code == 2 and "none" in err and not list(tmp_path.iterdir())


def test_an_interrupt_says_how_to_go_on(monkeypatch, capsys, saved, text, tmp_path):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("secateur.run.prune.prune", interrupted)
    args = ("prune", saved("llama"), "--ratio", 0.5, "--calibration", text, "--out", tmp_path / "out")
    code, _, err = run(monkeypatch, capsys, *args)
    assert code == 130 and "--resume" in err


def test_blocks_are_removed(monkeypatch, capsys, saved, text, tmp_path):
    args = ("--ratio", 0.5, "--calibration", text, "--samples", 2, "--length", 16, "--out", tmp_path / "out")
    code, printed, _ = run(monkeypatch, capsys, "prune", saved("llama"), "--method", "shortgpt", *args)
    assert code == 0 and "50.00%" in printed


def test_ratios_can_be_said_alone_and_pruned_with(monkeypatch, capsys, saved, text, tmp_path):
    data = ("--calibration", text, "--samples", 2, "--length", 16)
    args = ("allocate", saved("llama"), "--allocator", "owl", "--ratio", 0.5, "--out", tmp_path / "a.json", *data)
    code, printed, _ = run(monkeypatch, capsys, *args)
    ratios = json.loads((tmp_path / "a.json").read_text())
    assert code == 0 and "####" in printed and len(ratios) == 14
    code, _, err = run(monkeypatch, capsys, *args)
    assert code == 2 and "already exists" in err
    args = ("prune", saved("llama"), "--method", "magnitude", "--ratio", 0.5, "--ratios", tmp_path / "a.json")
    code, printed, _ = run(monkeypatch, capsys, *args, "--out", tmp_path / "out", "--json")
    layers = json.loads(printed)["layers"]
    assert code == 0 and all(layer["ratio"] == pytest.approx(ratios[layer["name"]], abs=1e-2) for layer in layers)


NAMES = ["x[/y]", "a [bold]b", ":smile:", "we ird$name$", "ünï\u2028code"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_printed_as_they_are(name, monkeypatch, capsys, saved, text, tmp_path):
    model = tmp_path / "m" / name
    shutil.copytree(saved("llama"), model)
    args = ("--method", "wanda", "--ratio", 0.5, "--calibration", text, "--samples", 2, "--length", 16)
    code, printed, err = run(monkeypatch, capsys, "prune", model, *args, "--out", tmp_path / name)
    assert code == 0 and name in printed, err
    code, _, err = run(monkeypatch, capsys, "prune", model, *args, "--out", tmp_path / name)
    assert code == 2 and "already exists" in err
    code, _, err = run(monkeypatch, capsys, "prune", tmp_path / "none" / name, *args, "--out", tmp_path / "o")
    assert code == 2 and err.count("\n") == 1


def test_a_run_killed_while_it_tidied_up_is_tidied_up_by_the_next(monkeypatch, capsys, saved, text, tmp_path):
    out = tmp_path / "out"
    args = ("prune", saved("llama"), "--method", "magnitude", "--ratio", 0.5, "--out", out)
    code, _, _ = run(monkeypatch, capsys, *args)
    (tmp_path / "out.partial").mkdir()
    write_sealed(tmp_path / "out.partial" / "finished.json", {"out": "out"})
    code, _, err = run(monkeypatch, capsys, *args)
    assert code == 2 and "already exists" in err and list(tmp_path.iterdir()) == [out]

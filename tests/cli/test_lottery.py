import json

import numpy as np
import pytest
from typer.main import get_command

from conftest import options, run
from secateur.cli.main import app
from secateur.lottery import run as lottery_run
from secateur.lottery.target import Target, write_target

OPTIONS = (
    "--base --delta --eps --inputs --json --law --layers --non-negative --norm --norm-max --out --plan --radius "
    "--sampling --seed --tries --weight-max target"
)


@pytest.fixture(autouse=True)
def few_accuracies(monkeypatch):
    monkeypatch.setattr(lottery_run, "ACCURACIES", (1e-1, 1e-2, 1e-3))


@pytest.fixture
def target(tmp_path):
    rng = np.random.default_rng(0)
    write_target(Target((rng.normal(size=(4, 3)),), (rng.normal(size=4),)), tmp_path / "t.safetensors")
    return tmp_path / "t.safetensors"


def test_the_command_line_is_as_reviewed():
    assert options({"lottery": get_command(app).commands["lottery"]}) == {"lottery": OPTIONS}


def test_a_lottery_promises_builds_and_tells(monkeypatch, capsys, tmp_path, target):
    code, printed, err = run(monkeypatch, capsys, "lottery", target, "--eps", 0.1, "--out", tmp_path / "out")
    assert code == 0 and "promised" in printed and "proved" in printed, err
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        *("certificate.json", "masks.safetensors", "product.safetensors", "target.safetensors"),
        *("growth.png", "layers.png", "widths.png"),
    }
    code, printed, err = run(monkeypatch, capsys, "lottery", target, "--eps", 0.1, "--out", tmp_path / "two", "--json")
    assert code == 0 and json.loads(printed)["certificate"]["holds"], err


def test_a_network_that_needs_nothing_is_written_too(monkeypatch, capsys, tmp_path):
    write_target(Target((np.zeros((4, 3)),), (np.zeros(4),)), tmp_path / "t.safetensors")
    code, printed, err = run(monkeypatch, capsys, "lottery", tmp_path / "t.safetensors", "--out", tmp_path / "out")
    assert code == 0 and "0 promised, 0 reached, 0.0 kept" in printed, err
    assert lottery_run.load_ticket(tmp_path / "out")(np.ones((2, 3))).tolist() == [[0.0] * 4] * 2


def test_plans_build_nothing(monkeypatch, capsys, tmp_path, target):
    code, printed, err = run(monkeypatch, capsys, "lottery", "--plan", "--layers", "784,300,10", "--eps", "1e-2")
    assert code == 0 and "235,500" in printed and "for weights of 1 or less and layers of norm 1" in printed, err
    code, printed, err = run(monkeypatch, capsys, "lottery", "--plan", "--layers", "5,3", "--json")
    assert code == 0 and json.loads(printed)["layers"][0]["weights"] == 18, err
    code, printed, err = run(monkeypatch, capsys, "lottery", target, "--plan", "--law", "uniform")
    assert code == 0 and "rounds of" in printed, err
    assert list(tmp_path.iterdir()) == [target]


def test_a_failure_is_told_and_the_code_says_whether_the_bound_holds(monkeypatch, capsys, tmp_path, target):
    from secateur.lottery import log_pruning

    whole = log_pruning.find_ticket

    def short(target, plan, seed, **settings):
        layers = tuple(layer._replace(width=layer.width // 20) for layer in plan.layers)
        return whole(target, plan._replace(layers=layers), seed, **settings)

    monkeypatch.setattr(lottery_run, "find_ticket", short)
    code, _, err = run(monkeypatch, capsys, "lottery", target, "--tries", 2, "--out", tmp_path / "out")
    assert code == 1 and "were not in the random network (2 tries): add --tries" in " ".join(err.split())
    assert json.loads((tmp_path / "out" / "certificate.json").read_text())["certificate"]["missing"] > 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--eps", "0.1"), "name one of TARGET and --layers"),
        (("bundled:digits-mlp",), "name --out to build, or --plan for sizes only"),
        (("--layers", "3,2", "--out", "o"), "--layers takes --plan"),
        (("--layers", "3,a", "--plan"), "should be whole numbers with commas between"),
        (("--layers", "3", "--plan"), "two sizes or more"),
        (("none.safetensors", "--plan"), "neither a .safetensors file"),
        (("x" * 300 + ".safetensors", "--plan"), "neither a .safetensors file"),
        (("--layers", "3,2", "--plan", "--eps", "0"), "eps 0.0 should be a positive number"),
        (("--layers", "3,2", "--plan", "--base", "1.7"), "above the golden ratio"),
        (("--layers", "3,2", "--plan", "--base", "0"), "base 0.0 is outside"),
        (("--layers", "3,2", "--plan", "--law", "uniform", "--eps", "1e-11"), "law 'uniform' cannot be right to"),
        (("--layers", "3,2", "--plan", "--eps", "1e-15"), "float64"),
    ],
)
def test_bad_input_is_one_sentence(monkeypatch, capsys, args, message):
    code, _, err = run(monkeypatch, capsys, "lottery", *args)
    assert code == 2 and message in " ".join(err.split()) and "Traceback" not in err

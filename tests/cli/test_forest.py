import json

import pytest
from sklearn.datasets import load_breast_cancer
from typer.main import get_command

from conftest import options, run
from secateur.cli.main import app
from secateur.forest.table import load_forest

OPTIONS = {
    "fit": "--budget --class-weight --costs --grow --jobs --json --out --regression --seed --target --trees "
    "--weight data",
    "prune": "--budget --costs --data --json --onnx --out --path --peers --points --solver --target --test "
    "--trade-off --weight model",
    "report": "--json folder",
}


def test_the_command_line_is_as_reviewed():
    assert options(get_command(app).commands["forest"].commands) == OPTIONS


def test_fit_prune_and_report(monkeypatch, capsys, tmp_path):
    load_breast_cancer(as_frame=True).frame.iloc[:200, 20:].to_csv(tmp_path / "data.csv", index=False)
    data = (tmp_path / "data.csv", "--target", "target")
    code, printed, err = run(monkeypatch, capsys, "forest", "fit", *data, "--trees", 4, "--out", tmp_path / "grown")
    assert code == 0 and "error" in printed, err
    model = tmp_path / "grown" / "model.skops"
    args = ("prune", model, "--data", *data, "--budget", 3, "--out", tmp_path / "small", "--json")
    code, printed, err = run(monkeypatch, capsys, "forest", *args)
    assert code == 0 and json.loads(printed)["chosen"]["cost"] <= 3, err
    for name in ("frontier.png", "bills.png", "use.png"):
        (tmp_path / "small" / name).unlink()
    code, printed, _ = run(monkeypatch, capsys, "forest", "report", tmp_path / "small")
    assert code == 0 and "chosen.cost" in printed and (tmp_path / "small" / "use.png").exists()
    code, printed, err = run(
        monkeypatch, capsys, "forest", "prune", model, "--data", *data, "--path", "--out", tmp_path / "all"
    )
    corners = json.loads((tmp_path / "all" / "forest.json").read_text())["path"]
    assert code == 0 and all(f"{corner['cost']:.6g}" in printed for corner in corners), err
    code, _, err = run(monkeypatch, capsys, "forest", "prune", model, "--data", *data, "--out", tmp_path / "x")
    assert code == 2 and "one of --budget, --trade-off and --path" in " ".join(err.split())


def test_a_forest_is_grown_and_pruned_within_a_budget_in_one_call(monkeypatch, capsys, tmp_path):
    frame = load_breast_cancer(as_frame=True).frame.iloc[:300, 20:]
    frame.to_csv(tmp_path / "data.csv", index=False)
    costs = "feature,cost\n" + "".join(f"{name},{1 + place}\n" for place, name in enumerate(frame.columns[:-1]))
    (tmp_path / "costs.csv").write_text(costs)
    data = (tmp_path / "data.csv", "--target", "target", "--costs", tmp_path / "costs.csv", "--trees", 6)
    call = ("forest", "fit", *data, "--grow", "frugal", "--budget", 9, "--out", tmp_path / "small", "--json")
    code, printed, err = run(monkeypatch, capsys, *call)
    told = json.loads(printed)
    assert code == 0 and told["cost"] <= 12 and told["growth"], err  # measured on other rows than chosen
    assert load_forest(tmp_path / "small" / "model.skops").feature_names_in_.tolist() == list(frame.columns[:-1])
    for wrong, said in ((("--grow", "frugal"), "go together"), (("--budget", 9), "go together")):
        code, _, err = run(monkeypatch, capsys, "forest", "fit", *data, *wrong, "--out", tmp_path / "x")
        assert code == 2 and said in " ".join(err.split()) and not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("fit", "none.csv", "--target", "y"), "cannot be read"),
        (("prune", "none.skops", "--data", "none.csv", "--target", "y", "--budget", "1"), "cannot be read as a skops"),
    ],
)
def test_bad_input_is_one_sentence(monkeypatch, capsys, tmp_path, args, message):
    code, _, err = run(monkeypatch, capsys, "forest", *args, "--out", tmp_path / "out")
    assert code == 2 and message in " ".join(err.split()) and "Traceback" not in err
    assert not list(tmp_path.iterdir())


def data(tmp_path):
    frame = load_breast_cancer(as_frame=True).frame.iloc[:, 24:]
    frame.iloc[:150].to_csv(tmp_path / "data.csv", index=False)
    frame.iloc[150:300].to_csv(tmp_path / "other.csv", index=False)
    return (tmp_path / "data.csv", "--target", "target")


def test_rows_are_named_and_peers_want_others(monkeypatch, capsys, tmp_path):
    rows, model = data(tmp_path), tmp_path / "grown" / "model.skops"
    code, printed, err = run(monkeypatch, capsys, "forest", "fit", *rows, "--trees", 3, "--out", tmp_path / "grown")
    assert code == 0 and "error and cost are those of 30 other rows of" in printed, err
    args = ("forest", "prune", model, "--data", *rows, "--budget", 2, "--peers")
    code, _, err = run(monkeypatch, capsys, *args, "--out", tmp_path / "out")
    assert code == 2 and "give --test other rows" in " ".join(err.split()) and not (tmp_path / "out").exists()
    code, printed, err = run(monkeypatch, capsys, *args, "--test", tmp_path / "other.csv", "--out", tmp_path / "out")
    assert code == 0 and f"those of 150 rows of {tmp_path / 'other.csv'}, which did not prune it" in printed, err
    assert "chosen: least error there of the" in printed and (tmp_path / "out" / "frontier.png").exists()


@pytest.mark.parametrize(
    "args",
    [
        ("--trade-off", "nan"),
        ("--trade-off", "-1"),
        ("--budget", "nan"),
        ("--budget", "inf"),
        ("--budget", "-0.5"),
        ("--budget", "1", "--points", "0"),
        ("--budget", "1", "--points", "-3"),
        ("--budget", "1", "--solver", "guess"),
        ("--budget", "1", "--test", "a\0b.csv"),
        ("--budget", "1", "--costs", "a\0b.csv"),
        ("--budget", "1", "--costs", "."),
        ("--budget", "1", "--test", "."),
    ],
)
def test_options_that_cannot_be_used_are_one_sentence(monkeypatch, capsys, tmp_path, args):
    rows = data(tmp_path)
    run(monkeypatch, capsys, "forest", "fit", *rows, "--trees", 2, "--out", tmp_path / "grown")
    model = tmp_path / "grown" / "model.skops"
    code, _, err = run(monkeypatch, capsys, "forest", "prune", model, "--data", *rows, *args, "--out", tmp_path / "out")
    assert code == 2 and "Traceback" not in err and not (tmp_path / "out").exists(), err


@pytest.mark.parametrize("args", [("--seed", -1), ("--trees", 0), ("--jobs", 0), ("--seed", 2**40)])
def test_numbers_out_of_range_are_one_sentence(monkeypatch, capsys, tmp_path, args):
    code, _, err = run(monkeypatch, capsys, "forest", "fit", *data(tmp_path), *args, "--out", tmp_path / "out")
    assert code == 2 and "Traceback" not in err and not (tmp_path / "out").exists(), err


@pytest.mark.parametrize(
    "said",
    ["{}", '{"path": 3}', '{"path": [{"cost": "x"}]}', '{"path": [], "bills": [], "use": {}}', '{"bills": [1]}', "[1]"],
)
def test_a_damaged_report_is_one_sentence(monkeypatch, capsys, tmp_path, said):
    (tmp_path / "forest.json").write_text(said)
    code, _, err = run(monkeypatch, capsys, "forest", "report", tmp_path)
    assert (code == 2 and "Traceback" not in err) or said == "{}"

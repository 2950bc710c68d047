import json

import pytest
from sklearn.datasets import load_breast_cancer
from typer.main import get_command

from conftest import options, run
from secateur.cli.main import app

OPTIONS = {
    "fit": "--costs --jobs --json --out --regression --seed --target --trees data",
    "prune": "--budget --costs --data --json --onnx --out --path --peers --points --solver --target --test "
    "--trade-off model",
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
    code, _, err = run(monkeypatch, capsys, "forest", "prune", model, "--data", *data, "--out", tmp_path / "x")
    assert code == 2 and "one of --budget, --trade-off and --path" in " ".join(err.split())


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

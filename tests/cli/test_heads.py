import json

import pytest
from typer.main import get_command

from conftest import options, run
from secateur.cli.main import app

OPTIONS = {
    "importance": "--batch --data --json --length --level --normalise --out --samples --score --seed --task "
    "--trust-remote-code model",
    "ablate": "--batch --data --json --keep-one --length --out --samples --seed --task --trust-remote-code model",
    "curve": "--batch --data --json --kind --length --level --min-heads --normalise --out --reestimate --samples "
    "--score --seeds --step --task --test "
    "--trust-remote-code --unit model",
    "prune": "--batch --data --dry-run --exact --json --kind --length --level --min-heads --normalise --onnx --out "
    "--ratio --reestimate --samples --score --seed --task --test "
    "--trust-remote-code --unit model",
    "finetune": "--batch --data --epochs --json --length --out --rate --resume --seed --test --trust-remote-code model",
}


def test_the_command_line_is_as_reviewed():
    assert options(get_command(app).commands["heads"].commands) == OPTIONS


def test_every_command_runs_and_says_where_it_wrote(monkeypatch, capsys, saved_task, labelled, tmp_path):
    folder, data = saved_task("DistilBertForSequenceClassification"), ("--data", labelled, "--samples", 8)
    for name, extra in {
        "importance": ("--level", "example"),
        "ablate": (),
        "curve": ("--step", 0.5, "--seeds", 1),
        "prune": ("--ratio", 0.25),
    }.items():
        out = tmp_path / name
        code, printed, err = run(monkeypatch, capsys, "heads", name, folder, *data, *extra, "--out", out)
        assert code == 0 and str(out) in printed.replace("\n", ""), err
    code, printed, _ = run(
        monkeypatch, capsys, "heads", "prune", folder, *data, "--ratio", 0.5, "--out", tmp_path / "j", "--json"
    )
    assert code == 0 and json.loads(printed)["heads"] == 6
    args = ("finetune", folder, "--data", labelled, "--epochs", 1, "--out", tmp_path / "tuned", "--json")
    code, printed, _ = run(monkeypatch, capsys, "heads", *args)
    assert code == 0 and json.loads(printed)["classes"] == ["0", "1"]


def test_the_closing_words_of_prune_count_the_rows_of_both_files(monkeypatch, capsys, saved_task, labelled, tmp_path):
    folder, out = saved_task("DistilBertForSequenceClassification"), tmp_path / "out"
    files = ("--data", labelled, "--test", labelled, "--samples", 8)
    code, printed, err = run(monkeypatch, capsys, "heads", "prune", folder, *files, "--ratio", 0.5, "--out", out)
    assert code == 0, err
    assert f"scored on 8 rows of {labelled}, judged on 24 of {labelled}" in printed


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("importance", "--score", "colour"), "score 'colour' is unknown"),
        (("importance", "--level", "batch"), "level 'batch' is unknown"),
        (("importance", "--task", "lm"), "has no head for task lm"),
        (("importance", "--samples", "0"), "greater than or equal to 1"),
        (("curve", "--kind", "cross"), "kind 'cross' is not in this model"),
        (("prune", "--ratio", "2"), "less than or equal to 1"),
        (("prune", "--ratio", "0.5", "--unit", "wheels"), "unit 'wheels' is unknown"),
        (("prune", "--ratio", "0.5", "--test", "none.tsv"), "cannot be read"),
    ],
)
def test_bad_input_is_one_sentence(monkeypatch, capsys, saved_task, labelled, tmp_path, args, message):
    folder = saved_task("DistilBertForSequenceClassification")
    command, *rest = args
    code, _, err = run(
        monkeypatch, capsys, "heads", command, folder, "--data", labelled, *rest, "--out", tmp_path / "out"
    )
    assert code == 2 and message in " ".join(err.split()) and "Traceback" not in err
    assert not list(tmp_path.iterdir())

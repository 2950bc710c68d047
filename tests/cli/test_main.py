import json
import shutil
import signal
import subprocess
import sys

import pytest
from safetensors.torch import load_file, save_file
from typer.main import get_command

from conftest import options, run
from secateur.cli import main as module
from secateur.cli.main import app
from secateur.core.files import write_sealed

OPTIONS = {
    "prune": "--allocator --budget --calibration --dtype --json --length --method --out --pattern --ratio --ratios "
    "--resume --round-to --samples --save-dtype --seed --text-column --trust-remote-code model",
    "allocate": "--allocator --budget --calibration --figures --length --out --ratio --samples --seed --text-column "
    "--trust-remote-code model",
    "search": "--calibration --eval-samples --figures --json --length --out --population --ratio --samples --seed "
    "--space --storage --text-column --trials --trust-remote-code --workers model",
    "run": "--json --out --resume --trust-remote-code recipe",
    "evaluate": "--dtype --json --length --limit --perplexity --stride --tasks --text-column --trust-remote-code "
    "--windows model",
    "methods": "--json",
    "recover": "--batch --json --length --out --rank --rate --resume --seed --steps --teacher --text "
    "--text-column --trust-remote-code model",
    "verify": "--json --trust-remote-code dense pruned",
    "bench": "--batch --engine --json --new-tokens --prompt --rounds --trust-remote-code dense pruned",
    "export": "--out --quantize --to --trust-remote-code folder",
}


def test_the_command_line_is_as_reviewed():
    commands = get_command(app).commands
    groups = ("forest", "heads", "lottery")  # reviewed in files of their own
    assert options({name: command for name, command in commands.items() if name not in groups}) == OPTIONS


def test_prune_then_evaluate(monkeypatch, capsys, saved, text, tmp_path):
    out = tmp_path / "out"
    args = ("prune", saved("llama"), "--method", "wanda", "--pattern", "2:4", "--calibration", text)
    code, printed, _ = run(monkeypatch, capsys, *args, "--samples", 4, "--length", 16, "--out", out)
    assert code == 0 and "50.00% of" in printed
    (tmp_path / "quiz.jsonl").write_text('{"query": "w3", "choices": ["w4", "w5"], "gold": 0}')
    args = ("evaluate", out, "--perplexity", text, "--length", 16, "--tasks", tmp_path / "quiz.jsonl")
    code, printed, _ = run(monkeypatch, capsys, *args, "--json")
    assert code == 0 and json.loads(printed)["tasks"]["quiz"]["n"] == 1
    code, printed, _ = run(monkeypatch, capsys, *args)
    assert code == 0 and "perplexity" in printed and "tasks.quiz.acc_norm" in printed


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


def test_methods_lists_every_name_with_a_line(monkeypatch, capsys):
    code, printed, _ = run(monkeypatch, capsys, "methods", "--json")
    rows = json.loads(printed)
    assert code == 0 and {"magnitude", "wanda", "ria", "sparsegpt"} <= rows["method"].keys()
    assert all(line for kind in rows.values() for line in kind.values())
    code, printed, _ = run(monkeypatch, capsys, "methods")
    assert code == 0 and "sparsegpt" in printed


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--ratio", "2"], "less than or equal to 1"),
        ([], "no ratio given"),
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
    assert module.__all__ == ["app", "main"]


def test_help_does_not_import_torch():
    script = "import sys; import secateur.cli.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
    done = subprocess.run([sys.executable, "-m", "secateur.cli", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "prune" in done.stdout


def test_units_are_cut_verified_and_refused_in_words(monkeypatch, capsys, saved, text, tmp_path):
    out = tmp_path / "out"
    settings = ("--calibration", text, "--samples", 4, "--length", 16, "--round-to", 1, "--allocator", "incremental")
    args = ("prune", saved("llama"), "--method", "slimgpt", *settings)
    code, printed, _ = run(monkeypatch, capsys, *args, "--budget", "14k-params", "--out", out)
    assert code == 0 and "block weights removed" in printed
    code, printed, _ = run(monkeypatch, capsys, "verify", saved("llama"), out)
    assert code == 0 and "same: blocks differ" in printed
    code, printed, _ = run(monkeypatch, capsys, "verify", saved("llama"), out, "--json")
    assert json.loads(printed)["logits"] < 1e-4
    code, _, err = run(monkeypatch, capsys, *args, "--ratio", 0.9, "--out", tmp_path / "none")
    assert code == 2 and "every site keeps a unit" in " ".join(err.split())
    code, _, err = run(monkeypatch, capsys, "export", out, "--to", "gguf", "--out", tmp_path / "x.gguf")
    assert code == 2 and "byte-level BPE" in " ".join(err.split()) and not (tmp_path / "none").exists()


def test_a_pruned_model_is_recovered(monkeypatch, capsys, saved, text, tmp_path):
    sizes = ("--steps", 2, "--batch", 1, "--length", 16)
    args = ("recover", saved("llama"), "--text", text, "--out", tmp_path / "out", *sizes)
    code, printed, _ = run(monkeypatch, capsys, *args, "--rank", 2, "--json")
    assert code == 0 and json.loads(printed)["training"]["rank"] == 2 and (tmp_path / "out" / "config.json").exists()
    code, _, error = run(monkeypatch, capsys, *args)
    assert code == 2 and "already exists" in error


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_with_one_sentence_and_resuming_goes_on(number, saved, text, tmp_path):
    args = ("prune", saved("llama", blocks=4), "--method", "sparsegpt", "--ratio", 0.5, "--calibration", text)
    args += ("--samples", 2, "--length", 16, "--out", tmp_path / "out")
    script = (
        "import os, sys, signal\n"
        "from secateur.storage.run_folder import RunFolder\n"
        "save = RunFolder.save_block\n"
        f"def saved(self, index, block): save(self, index, block); os.kill(os.getpid(), {int(number)})\n"
        "RunFolder.save_block = saved\n"
        "from secateur.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 130 and "Traceback" not in done.stderr
    assert done.stderr.strip() == "interrupted: finished work is kept: rerun the command with --resume to go on"
    again = [sys.executable, "-m", "secateur.cli", *map(str, args), "--resume"]
    done = subprocess.run(again, capture_output=True, text=True)
    assert done.returncode == 0 and "1 blocks resumed" in done.stdout and not (tmp_path / "out.partial").exists()


def test_verify_judges_with_its_exit_code(monkeypatch, capsys, saved, text, tmp_path):
    args = ("--method", "slimgpt", "--ratio", 0.4, "--round-to", 1, "--calibration", text, "--samples", 2)
    out = tmp_path / "out"
    assert run(monkeypatch, capsys, "prune", saved("llama"), *args, "--length", 16, "--out", out)[0] == 0
    assert run(monkeypatch, capsys, "verify", saved("llama"), out)[0] == 0
    weights = load_file(out / "model.safetensors")
    weights["model.embed_tokens.weight"] += 0.1
    save_file(weights, out / "model.safetensors", {"format": "pt"})
    code, printed, err = run(monkeypatch, capsys, "verify", saved("llama"), out)
    assert code == 1 and not printed and err.startswith("not the same: ")
    code, printed, _ = run(monkeypatch, capsys, "verify", saved("llama"), out, "--json")
    assert code == 1 and json.loads(printed)["same"] is False


@pytest.mark.parametrize("out", ["", ".", "/", "n" * 300, "taken", "file/x"])
@pytest.mark.parametrize("command", ["prune", "recover", "export"])
def test_outputs_are_refused_before_any_work(command, out, monkeypatch, capsys, saved, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").touch()
    (tmp_path / "file").touch()
    monkeypatch.setattr("secateur.storage.source.resolve", lambda *a, **k: pytest.fail("began to work"))
    extra = {"prune": ("--ratio", 0.5), "recover": ("--text", "bundled"), "export": ("--to", "onnx")}[command]
    code, _, err = run(monkeypatch, capsys, command, saved("llama"), *extra, "--out", out)
    assert code == 2 and err.startswith("error: output") and err.count("\n") == 1


def test_what_nobody_expected_is_one_sentence_too(monkeypatch, capsys, saved, tmp_path):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("boo[/m]")

    monkeypatch.setattr("secateur.run.prune.prune", broken)
    monkeypatch.delenv("SECATEUR_TRACEBACK", raising=False)
    args = ("prune", saved("llama"), "--ratio", 0.5, "--out", tmp_path / "out")
    code, _, err = run(monkeypatch, capsys, *args)
    assert code == 2 and err.startswith("error: ZeroDivisionError: boo[/m] (secateur did not expect this")
    monkeypatch.setenv("SECATEUR_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        run(monkeypatch, capsys, *args)


def test_a_run_killed_while_it_tidied_up_is_tidied_up_by_the_next(monkeypatch, capsys, saved, text, tmp_path):
    out = tmp_path / "out"
    args = ("prune", saved("llama"), "--method", "magnitude", "--ratio", 0.5, "--out", out)
    code, _, _ = run(monkeypatch, capsys, *args)
    (tmp_path / "out.partial").mkdir()
    write_sealed(tmp_path / "out.partial" / "finished.json", {"out": "out"})
    code, _, err = run(monkeypatch, capsys, *args)
    assert code == 2 and "already exists" in err and list(tmp_path.iterdir()) == [out]


def every_option(command, words=()):
    """Every option that takes a value, with the words of its command."""
    if hasattr(command, "commands"):
        return [found for name, part in command.commands.items() for found in every_option(part, (*words, name))]
    return [
        (*words, option.opts[0])
        for option in command.params
        if option.param_type_name == "option" and not option.is_flag and option.opts[0] not in ("--out", "--help")
    ]


@pytest.mark.parametrize("words", every_option(get_command(app)), ids=" ".join)
def test_an_empty_option_is_refused_by_its_name(words, monkeypatch, capsys):
    *command, option = words
    for empty in ([option, ""], [f"{option}="], [option, "  "]):
        code, _, err = run(monkeypatch, capsys, *command, *empty, "model")
        assert code == 2 and f"{option} is empty: give it a value" in err and err.count("\n") == 1

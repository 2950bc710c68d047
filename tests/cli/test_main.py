import json
import signal
import subprocess
import sys

import pytest
from typer.main import get_command

from conftest import options, run
from secateur.cli import main as module
from secateur.cli.main import app

OPTIONS = {
    "prune": "--allocator --budget --calibration --device --dry-run --dtype --exempt --factory --images --json "
    "--length --match --memory-gb --method --out --pattern --pointwise --ratio --ratios --reconstruct --refit "
    "--repair --resume --round-to --samples --save-dtype --seed --sites --table --taps --test "
    "--text-column --trust-remote-code --weights model",
    "allocate": "--allocator --budget --calibration --device --figures --json --length --out --ratio --samples --seed "
    "--text-column --trust-remote-code model",
    "search": "--calibration --eval-samples --figures --json --length --out --population --ratio --samples --seed "
    "--space --storage --text-column --trials --trust-remote-code --workers model",
    "run": "--json --out --resume --trust-remote-code recipe",
    "evaluate": "--device --dtype --factory --images --json --length --limit --perplexity --stride --tasks "
    "--text-column --trust-remote-code --weights --windows model",
    "methods": "--json name",
    "advise": "--json --target --trust-remote-code model",
    "recover": "--batch --json --length --out --rank --rate --resume --seed --steps --teacher --text "
    "--text-column --trust-remote-code model",
    "train": "--batch --classes --device --distill --epochs --factory --images --json --length --method --norms --out "
    "--pattern --prior --rate --refit --resume --round-to --samples --scope --seed --steps --target --teacher "
    "--teaching --test --text --text-column --trust-remote-code --weights model",
    "verify": "--factory --json --trust-remote-code dense pruned",
    "bench": "--batch --engine --factory --json --layers --new-tokens --out --prompt --rounds --trust-remote-code "
    "dense pruned",
    "compare": "--json --out grid",
    "report": "--json --out runs",
    "push": "--json --public --update folder name",
    "export": "--factory --json --out --quantize --to --trust-remote-code folder",
}


def test_the_command_line_is_as_reviewed():
    commands = get_command(app).commands
    groups = ("forest", "heads", "lottery", "mask")  # reviewed in files of their own
    assert options({name: command for name, command in commands.items() if name not in groups}) == OPTIONS


def python(*words):
    """A script in a process of its own."""
    return subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True)


IMPORTS = "sys.exit(8 if {'torch', 'transformers', 'numpy'} & set(sys.modules) else code)"
COMMAND = f"""
import sys
from secateur.cli.main import main
sys.argv = ["secateur", *sys.argv[1:]]
try:
    main()
except SystemExit as stop:
    code = stop.code or 0
{IMPORTS}
"""


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("-h", 0, "prune"),
        ("prune --help", 0, "--method"),
        ("--version", 0, "secateur "),
        ("methods", 0, "wanda"),
        ("methods --json", 0, '"wanda"'),
        ("prune m --out o --method wnda", 2, "method 'wnda' is unknown: did you mean 'wanda'?"),
        ("prune m --out o --allocator owll", 2, "did you mean 'owl'?"),
        ("prune m --out o --pattern chanels", 2, "did you mean 'channels'?"),
        ("prune m --out o --dtype bfloat", 2, "did you mean 'bfloat16'?"),
        ("prune m --out o --save-dtype float61", 2, "did you mean 'float16'?"),
        ("allocate m --out o --allocator owll", 2, "did you mean 'owl'?"),
        ("evaluate m --dtype flot32", 2, "did you mean 'float32'?"),
        ("bench a b --engine torch,lama.cpp", 2, "did you mean 'llama.cpp'?"),
        ("export m --out o --to guff", 2, "did you mean 'gguf'?"),
    ],
)
def test_help_lists_and_mistyped_names_import_neither_torch_nor_transformers(line, code, said):
    done = python("-c", COMMAND, *line.split())
    assert done.returncode == code and said in (done.stderr if code else done.stdout), done.stderr


def test_a_mistyped_name_in_a_recipe_imports_neither(tmp_path):
    (tmp_path / "r.yaml").write_text("model: m\nmethod: wnda\n")
    done = python("-c", COMMAND, "run", tmp_path / "r.yaml")
    assert done.returncode == 2 and "did you mean 'wanda'?" in done.stderr, done.stderr


def test_the_package_itself_is_the_command_line():
    done = python("-m", "secateur", "--help")
    assert done.returncode == 0 and "python -m secateur" in done.stdout
    assert module.__all__ == ["app", "main", "run"]


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
    said = "interrupted: finished work is kept: rerun the command with --resume to go on"
    assert done.stderr.strip().splitlines()[-1] == said  # on a busy machine lines of progress stand before it
    again = [sys.executable, "-m", "secateur", *map(str, args), "--resume"]
    done = subprocess.run(again, capture_output=True, text=True)
    assert done.returncode == 0 and "1 blocks resumed" in done.stdout and not (tmp_path / "out.partial").exists()


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


def commands(group, prefix=""):
    """Every command by its words."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


EVERY = dict(commands(get_command(app)))


def test_the_options_before_a_command_are_as_reviewed():
    assert options({"secateur": get_command(app)})["secateur"] == (
        "--install-completion --log-to --quiet --show-completion --tensorboard --verbose --version"
    )


def test_commands_stand_in_groups_and_prune_is_first():
    groups = {}
    for name, command in get_command(app).commands.items():
        groups.setdefault(command.rich_help_panel, []).append(name)
    assert groups == {
        "Prune language models": ["prune", "advise", "allocate", "search", "compare", "run", "methods"],
        "Learn what to prune": ["train", "mask"],
        "Use a pruned model": ["evaluate", "verify", "bench", "recover", "export", "report", "push"],
        "Other models": ["lottery", "heads", "forest"],
    }


@pytest.mark.parametrize("name", EVERY)
def test_every_command_has_short_help_panels_and_json_and_no_doctest(name, monkeypatch, capsys):
    code, printed, _ = run(monkeypatch, capsys, *name.split(), "-h")
    assert code == 0 and ">>>" not in printed and EVERY[name].help
    given = [option for option in EVERY[name].params if option.param_type_name == "option"]
    assert "--json" in {option.opts[0] for option in given}
    assert all(option.rich_help_panel and option.help for option in given if option.name != "help")


def test_prunes_panels_stand_in_the_order_of_the_work():
    panels = [option.rich_help_panel for option in EVERY["prune"].params if option.param_type_name == "option"]
    assert list(dict.fromkeys(panels)) == ["What to prune", "How much", "Calibration", "Output", "Machine"]


@pytest.mark.parametrize("name", EVERY)
def test_every_command_says_what_first_and_where_to_last(name):
    options = [option for option in EVERY[name].params if option.param_type_name == "option"]
    panels = list(dict.fromkeys(option.rich_help_panel for option in options))
    last = [panel for panel in panels if panel in ("Output", "Machine")]
    assert panels[len(panels) - len(last) :] == sorted(last, reverse=True)
    assert "What to prune" not in panels[1:]


def test_quiet_prints_nothing_but_results_and_errors(monkeypatch, capsys, saved, text, tmp_path):
    args = (
        "prune",
        saved("llama"),
        "--pattern",
        "channels",
        "--method",
        "magnitude",
        "--ratio",
        0.3,
        "--round-to",
        1,
        "--out",
        tmp_path / "out",
    )
    assert run(monkeypatch, capsys, "-q", *args) == (0, "", "")
    code, _, err = run(monkeypatch, capsys, "--quiet", *args)
    assert code == 2 and "already exists" in err
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"command: export\nfolder: {tmp_path / 'out'}\nto: decilm\nout: {tmp_path / 'x'}\n")
    assert run(monkeypatch, capsys, "-q", "run", recipe) == (0, "", "")
    recipe.write_text(recipe.read_text().replace(str(tmp_path / "x"), str(tmp_path / "y")))
    code, printed, _ = run(monkeypatch, capsys, "run", recipe, "--json")
    assert code == 0 and json.loads(printed) == {"out": str(tmp_path / "y"), "format": "decilm"}
    code, printed, _ = run(monkeypatch, capsys, "methods", "-h")
    assert code == 0 and printed


def test_verbose_logs_every_layer(monkeypatch, capsys, caplog, saved, tmp_path):
    args = ("prune", saved("llama"), "--method", "magnitude", "--ratio", 0.5)
    run(monkeypatch, capsys, *args, "--out", tmp_path / "a")
    assert not caplog.records
    run(monkeypatch, capsys, "-v", *args, "--out", tmp_path / "b")
    assert len([record for record in caplog.records if "sparsity" in record.message]) == 14

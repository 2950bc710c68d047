import io
import json
import signal

import pytest
import typer
from rich.console import Console

from secateur.core.errors import InputError
from secateur.terminal import console
from secateur.terminal.progress import progress


def test_results_are_json_or_a_table_of_numbers(capsys, monkeypatch):
    results = {"a": {"b": 1234, "c": "text"}, "d": 0.5}
    console.show(results, as_json=True)
    assert json.loads(capsys.readouterr().out) == results
    console.show(results, as_json=False)
    printed = capsys.readouterr().out
    assert "a.b" in printed and "1,234" in printed and "0.5000" in printed and "text" not in printed


def test_long_sentences_stay_on_one_line(monkeypatch):
    screen = Console(file=io.StringIO(), width=20)
    monkeypatch.setattr(console, "screen", screen)
    console.say("word " * 40)
    assert screen.file.getvalue().count("\n") == 1


def test_nothing_that_is_printed_is_markup(capsys, monkeypatch):
    for text in ("x[/y]", "pip install 'secateur[report]'", "[bold]b[/bold] :smile:"):
        console.say(text)
        console.err.print(text, soft_wrap=True)
        printed = capsys.readouterr()
        assert printed.out == printed.err == text + "\n"
    console.show({"[/a]": {"[b]": 1}}, as_json=False)
    assert "[/a].[b]" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_what_runs_and_are_given_back(number, capsys):
    before = signal.getsignal(number)
    with pytest.raises(typer.Exit) as stop, console.interruptible(), console.resumable("go on with --resume"):
        signal.raise_signal(number)
    assert stop.value.exit_code == 130 and "interrupted: go on with --resume" in capsys.readouterr().err
    with pytest.raises(console.Interrupted), console.interruptible():
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("text", ["", "1,", "²", "1.5", "-1", "a", "9" * 20, "1;2"])
def test_lists_of_numbers_are_whole_numbers(text):
    with pytest.raises(InputError, match="whole numbers with commas"):
        console.whole_numbers("batch", text, "1,8")
    assert console.whole_numbers("batch", "1, 8", "1,8") == [1, 8]


def test_messages_are_one_line_of_signs_that_print(capsys):
    assert console.plain("a\nb\tc\u2028d\x1b[31m\x00\u202e\ud800 \u00e9\u4e2d[/x]") == (
        "a b c d\\x1b[31m\\x00\\u202e\\ud800 \u00e9\u4e2d[/x]"
    )
    long = console.plain("what " + "x" * 100_000 + " remedy")
    assert len(long) < 1300 and long.startswith("what xxx") and " ... " in long and long.endswith("xxx remedy")


def test_hushed_sentences_and_progress_are_left_out_and_tables_are_not(capsys, monkeypatch):
    monkeypatch.setattr(console, "_quiet", False)
    console.hush(quiet=True)
    console.say("a note")
    with progress("blocks") as bar:
        bar(1, 2)
    console.show({"a": 1}, as_json=False)
    printed = capsys.readouterr()
    assert "a note" not in printed.out and "measure" in printed.out and not printed.err
    console.hush(quiet=False)
    console.say("a note")
    assert capsys.readouterr().out == "a note\n"


@pytest.mark.parametrize("name", ["", " ", "a\0b", "/none/such", "./none"])
def test_names_that_lead_nowhere_are_refused_before_any_work(name, tmp_path):
    with pytest.raises(InputError, match="model"):
        console.check_names(name)
    console.check_names("org/model", tmp_path / "out")

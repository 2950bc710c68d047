import io
import json

from rich.console import Console

from secateur.cli import console


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


def test_progress_takes_done_and_total(monkeypatch):
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(console, "err", screen)
    with console.progress("blocks") as bar:
        bar(3, 7)
    assert "3/7" in screen.file.getvalue()

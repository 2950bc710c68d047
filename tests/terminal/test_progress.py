import io
import time

from rich.console import Console

from secateur.events import report, stage
from secateur.terminal import console
from secateur.terminal import progress as module
from secateur.terminal.progress import progress


def test_progress_takes_done_and_total(monkeypatch):
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(console, "err", screen)
    with progress("blocks") as bar:
        bar(3, 7)
    assert "3/7" in screen.file.getvalue()


def test_without_a_terminal_lines_say_how_far_it_is(capsys, monkeypatch):
    monkeypatch.setattr(module, "_EVERY", 0.02)
    with progress("blocks") as bar:
        time.sleep(0.05)
        bar(3, 7)
        time.sleep(0.1)
        bar(1, 7)  # a new round
        time.sleep(0.1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("blocks: 0 s") and any("3 of 7 done, 0 s, about" in line for line in lines)
    assert "1 of 7 done" in lines[-1]
    with progress("blocks") as bar:
        bar(3, 7)
    monkeypatch.setattr(module, "_EVERY", 10.0)
    with progress("quick") as bar:
        bar(1, 2)
    assert "quick" not in capsys.readouterr().err


def test_on_a_terminal_no_count_stands_before_one_is_known(monkeypatch):
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(console, "err", screen)
    with progress("blocks"):
        time.sleep(0.2)
    assert "blocks" in screen.file.getvalue() and "/?" not in screen.file.getvalue()


def test_stages_and_figures_are_told_beside_the_count(capsys, monkeypatch):
    monkeypatch.setattr(module, "_EVERY", 0.03)
    with progress("reading") as bar:
        bar(9, 9)
        stage("pruning blocks")
        report("block", layer_loss=1.5, tokens_per_second=1234.4, peak_memory_mb=900.2)
        report("block", layer_loss=2.5)
        time.sleep(0.05)
        bar(1, 4)
        time.sleep(0.05)
        report("step", loss=2.25)
        time.sleep(0.05)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "pruning blocks: 0 s, summed layer loss 4, 1,234 tokens/s, peak 900 MB"
    assert "1 of 4 done, 0 s, about 0 s left, summed layer loss 4" in lines[1] and "loss 2.25, 1,234" in lines[-1]


def test_a_terminal_shows_the_stage_and_the_figures(monkeypatch):
    screen = Console(file=io.StringIO(), force_terminal=True, width=140)
    monkeypatch.setattr(console, "err", screen)
    with progress("reading") as bar:
        stage("pruning blocks")
        bar(1, 4)
        report("block", layer_loss=1.5, peak_memory_mb=900.2)
    assert "pruning blocks" in screen.file.getvalue() and "peak 900 MB" in screen.file.getvalue()

import json

from cli.test_main import run
from secateur.allocate.expression import parse


def test_a_search_writes_ratios_and_its_history(monkeypatch, capsys, saved, text, tmp_path):
    out = tmp_path / "ratios.json"
    small = ("--calibration", text, "--samples", 4, "--length", 16, "--trials", 6, "--population", 3)
    args = ("search", saved("llama"), "--ratio", 0.5, "--out", out, *small)
    code, printed, _ = run(monkeypatch, capsys, *args, "--json", "--figures", tmp_path / "figures")
    found = json.loads(printed)
    assert code == 0 and found["candidate"].startswith("(")
    history = json.loads((tmp_path / "ratios.json.search" / "history.json").read_text())["history"]
    assert len(history) == 6 and min(value for value, _ in history) == found["fitness"]
    assert sorted(file.name for file in (tmp_path / "figures").iterdir()) == ["history.png", "ratios.png"]
    pruned = ("prune", saved("llama"), "--method", "wanda", "--ratio", 0.5, "--ratios", out, *small[:6])
    code, printed, _ = run(monkeypatch, capsys, *pruned, "--out", tmp_path / "out")
    assert code == 0 and "50.0" in printed
    out.unlink()
    code, printed, _ = run(monkeypatch, capsys, *args)
    assert code == 0 and parse(found["candidate"]).in_words() in printed
    out.unlink()
    code, _, err = run(monkeypatch, capsys, *args, "--seed", 1)
    assert code == 2 and "was begun with" in err


def test_ratios_are_written_and_drawn_for_a_ratio_or_a_budget(monkeypatch, capsys, saved, text, tmp_path):
    small = ("--calibration", text, "--samples", 4, "--length", 16, "--figures", tmp_path / "figures")
    args = ("allocate", saved("llama"), "--allocator", "als", *small)
    code, printed, _ = run(monkeypatch, capsys, *args, "--ratio", 0.5, "--out", tmp_path / "a.json")
    assert code == 0 and "q_proj" in printed
    assert sorted(file.name for file in (tmp_path / "figures").iterdir()) == ["correlation.png", "ratios.png"]
    code, _, _ = run(monkeypatch, capsys, *args, "--budget", "13k-params", "--out", tmp_path / "b.json")
    assert code == 0 and len(json.loads((tmp_path / "b.json").read_text())) == 14
    code, _, err = run(monkeypatch, capsys, *args, "--out", tmp_path / "c.json")
    assert code == 2 and "missing ratio" in err

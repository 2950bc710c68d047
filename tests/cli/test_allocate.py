import json

from cli.test_main import run


def test_a_search_writes_ratios_and_its_history(monkeypatch, capsys, saved, text, tmp_path):
    out = tmp_path / "ratios.json"
    small = ("--calibration", text, "--samples", 4, "--length", 16, "--trials", 6, "--population", 3)
    args = ("search", saved("llama"), "--ratio", 0.5, "--out", out, *small)
    code, printed, _ = run(monkeypatch, capsys, *args, "--json")
    found = json.loads(printed)
    assert code == 0 and found["candidate"].startswith("(")
    history = json.loads((tmp_path / "ratios.json.search" / "history.json").read_text())["history"]
    assert len(history) == 6 and min(value for value, _ in history) == found["fitness"]
    pruned = ("prune", saved("llama"), "--method", "wanda", "--ratio", 0.5, "--allocation", out, *small[:6])
    code, printed, _ = run(monkeypatch, capsys, *pruned, "--out", tmp_path / "out")
    assert code == 0 and "50.0" in printed
    out.unlink()
    code, printed, _ = run(monkeypatch, capsys, *args)
    assert code == 0 and found["candidate"] in printed
    out.unlink()
    code, _, err = run(monkeypatch, capsys, *args, "--seed", 1)
    assert code == 2 and "was begun with" in err

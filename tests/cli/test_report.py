import json

from conftest import run


def test_runs_become_one_page(monkeypatch, capsys, saved, tmp_path):
    for ratio in (0.3, 0.5):
        args = ("prune", saved("llama"), "--method", "magnitude", "--ratio", ratio, "--out", tmp_path / f"r{ratio}")
        assert run(monkeypatch, capsys, *args)[0] == 0
    page = tmp_path / "pages" / "report.html"
    code, printed, _ = run(monkeypatch, capsys, "report", tmp_path / "r0.3", tmp_path / "r0.5", "--out", page)
    assert code == 0 and printed == f"{page}: 2 runs; open it in a browser\n"
    assert page.read_text().count('"sparsity": ') == 28
    code, printed, err = run(monkeypatch, capsys, "report", tmp_path / "r0.3", "--out", page)
    assert code == 2 and "already exists" in err
    code, printed, _ = run(monkeypatch, capsys, "report", tmp_path / "r0.3", "--out", tmp_path / "x.html", "--json")
    assert json.loads(printed) == {"out": str(tmp_path / "x.html"), "runs": 1}
    code, _, err = run(monkeypatch, capsys, "report", tmp_path, "--out", tmp_path / "y.html")
    assert code == 2 and "holds no record of a run" in err

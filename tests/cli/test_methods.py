import json

import pytest

from conftest import run
from secateur.run.methods import METHODS


def test_every_name_is_listed_with_a_line_in_a_table_a_kind(monkeypatch, capsys):
    code, printed, _ = run(monkeypatch, capsys, "methods", "--json")
    rows = json.loads(printed)
    assert code == 0 and {"magnitude", "wanda", "ria", "sparsegpt"} <= rows["method"].keys()
    assert all(line for kind in rows.values() for line in kind.values())
    code, printed, _ = run(monkeypatch, capsys, "methods")
    lines = printed.splitlines()
    assert code == 0 and len(lines) < 100 and max(map(len, lines)) <= 90
    assert lines[0] == "Methods for language models (--method):"
    assert all(any(line.split()[:1] == [name] for line in lines) for kind in rows.values() for name in kind)


def test_one_name_is_told_with_formula_fields_and_file(monkeypatch, capsys):
    code, printed, _ = run(monkeypatch, capsys, "methods", "sparsegpt", "--json")
    told = json.loads(printed)
    assert code == 0 and told["method"]["usual pattern"] == "unstructured"
    assert told["solver"]["fields"] == {"damp": 0.01, "block": 128}
    assert "Frantar" in told["solver"]["formula"] and told["solver"]["code"] == "src/secateur/solve/sparsegpt.py"
    code, printed, _ = run(monkeypatch, capsys, "methods", "2:4")
    assert code == 2
    code, printed, _ = run(monkeypatch, capsys, "methods", "channels")
    assert code == 0 and printed.startswith("channels, pattern: ")


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_can_be_told(name, monkeypatch, capsys):
    code, printed, _ = run(monkeypatch, capsys, "methods", name)
    assert code == 0 and "usual pattern" in printed and "code: src/secateur/" in printed


def test_methods_with_a_command_of_their_own_are_told(monkeypatch, capsys):
    code, printed, _ = run(monkeypatch, capsys, "methods", "maskllm")
    assert code == 0 and "secateur train" in printed


def test_a_mistyped_name_is_told_the_nearest(monkeypatch, capsys):
    code, _, err = run(monkeypatch, capsys, "methods", "sparsgpt")
    assert code == 2 and "did you mean 'sparsegpt'?" in err

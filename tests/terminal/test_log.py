import json
import logging

import pytest

from conftest import run
from secateur.core.errors import StorageError
from secateur.terminal.log import JsonLines, log_to, set_up_log, tell_all


@pytest.fixture(autouse=True)
def restored():
    yield
    set_up_log()


def test_a_run_writes_its_layers_and_blocks_as_json_lines(monkeypatch, capsys, saved, tmp_path):
    for out in ("a", "b"):  # the second command appends
        args = ("prune", saved("llama"), "--method", "magnitude", "--ratio", 0.5, "--out", tmp_path / out)
        code, _, err = run(monkeypatch, capsys, "--log-to", tmp_path / "logs" / "run.jsonl", *args)
        assert code == 0 and "sparsity" not in err
    lines = [json.loads(line) for line in (tmp_path / "logs" / "run.jsonl").read_text().splitlines()]
    layers = [line for line in lines if line["logger"] == "secateur.run.blocks"]
    assert len(layers) == 28 and all(line["sparsity"] == pytest.approx(0.5, abs=0.01) for line in layers)
    assert [line["stage"] for line in lines if "stage" in line][:2] == ["reading the model", "pruning blocks"]
    assert [line["block"] for line in lines if "block" in line and line["peak_memory_mb"] > 0] == [
        "model.layers.0",
        "model.layers.1",
    ] * 2


def test_a_file_of_one_command_gets_nothing_of_the_next(tmp_path):
    log_to(tmp_path / "run.jsonl")
    logging.getLogger("secateur.x").debug("one")
    set_up_log()
    tell_all()
    logging.getLogger("secateur.x").debug("two")
    assert "one" in (tmp_path / "run.jsonl").read_text() and "two" not in (tmp_path / "run.jsonl").read_text()
    assert not [handler for handler in logging.getLogger("secateur").handlers if isinstance(handler, JsonLines)]


def test_a_file_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="--log-to"):
        log_to(tmp_path / "file" / "run.jsonl")

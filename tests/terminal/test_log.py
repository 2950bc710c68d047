import json
import logging
import sys

import pytest

from conftest import run
from secateur.core.errors import InputError, StorageError
from secateur.terminal.log import JsonLines, Scalars, draw_to, log_to, set_up_log, tell_all


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


def test_tensorboard_gets_a_curve_of_every_figure(monkeypatch, capsys, saved, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    args = ("prune", saved("llama"), "--method", "sparsegpt", "--ratio", 0.5, "--samples", 2, "--length", 16)
    code, _, _ = run(monkeypatch, capsys, "--tensorboard", tmp_path / "curves", *args, "--out", tmp_path / "out")
    set_up_log()  # what the next command does first; it closes the file
    read = events.EventAccumulator(str(tmp_path / "curves"))
    read.Reload()
    losses = read.Scalars("layer_loss")
    assert code == 0 and [point.step for point in losses] == [0, 1] and all(point.value > 0 for point in losses)
    assert {"tokens_per_second", "peak_memory_mb"} <= set(read.Tags()["scalars"])


def test_numbers_become_points_and_what_says_its_step_stands_there():
    class Writer(list):
        def add_scalar(self, name, value, step):
            self.append((name, value, step))

        def close(self):
            self.append("closed")

    writer = Writer()
    handler = Scalars(writer)
    for facts in (
        {"loss": 1.5, "block": "a", "done": True, "huge": 10**400},
        {"loss": 2},
        {"loss": 3.0, "step": 9},
        {},
    ):
        record = logging.makeLogRecord({"facts": facts} if facts else {})
        handler.emit(record)
    handler.close()
    assert writer == [("loss", 1.5, 0), ("loss", 2, 1), ("loss", 3.0, 9), "closed"]


def test_without_tensorboard_one_sentence_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"secateur\[tensorboard\]"):
        draw_to(tmp_path / "curves")


def test_a_file_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="--log-to"):
        log_to(tmp_path / "file" / "run.jsonl")

import errno

import pytest
import torch

from secateur.core.errors import InputError, StorageError
from secateur.core.output import storage_errors
from secateur.run.checkpoint import FinishedBlock, RunFolder

BLOCK = FinishedBlock(
    {"a": torch.randn(2, 3)}, {"a": torch.tensor([7], dtype=torch.uint8)}, [{"name": "a"}], {"a": torch.randn(2)}
)


def test_blocks_and_hidden_states_come_back(tmp_path):
    run = RunFolder(tmp_path / "out")
    assert run.open({"x": 1}, resume=False) == 0
    run.save_hidden(1, [torch.ones(2, 2), torch.zeros(1, 2)])
    run.save_block(0, BLOCK)
    loaded = run.load_block(0)
    assert torch.equal(loaded.weights["a"], BLOCK.weights["a"]) and loaded.reports == BLOCK.reports
    assert loaded.masks["a"].tolist() == [7] and torch.equal(loaded.biases["a"], BLOCK.biases["a"])
    assert [tensor.shape[0] for tensor in run.load_hidden(1)] == [2, 1]
    assert RunFolder(tmp_path / "out").open({"x": 1}, resume=True) == 1
    run.drop_hidden(1)
    with pytest.raises(InputError, match="damaged"):
        run.load_hidden(1)


def test_only_the_same_plan_goes_on(tmp_path):
    run = RunFolder(tmp_path / "out")
    run.open({"ratio": 0.5}, resume=True)
    with pytest.raises(InputError, match="unfinished run: add --resume"):
        run.open({"ratio": 0.5}, resume=False)
    with pytest.raises(InputError, match=r"another ratio \(0.5, now 0.6\)"):
        run.open({"ratio": 0.6}, resume=True)
    assert run.open({"ratio": 0.5}, resume=True) == 0


def test_an_existing_output_is_never_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    run = RunFolder(tmp_path / "out")
    run.open({}, resume=False)
    (run.path / "model").mkdir()
    run.finish(run.path / "model")
    assert (tmp_path / "out").is_dir() and not run.path.exists()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="already exists"):
        RunFolder(tmp_path / "out").open({}, resume=True)


def test_a_damaged_block_is_an_error(tmp_path):
    run = RunFolder(tmp_path / "out")
    run.open({}, resume=False)
    run.save_block(0, BLOCK)
    file = run.path / "blocks" / "00000.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(InputError, match="damaged"):
        run.load_block(0)


def test_a_full_disk_is_one_sentence(tmp_path):
    with (
        pytest.raises(StorageError, match="the disk is full; free some space and rerun the command"),
        storage_errors(tmp_path),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    run = RunFolder(tmp_path / "file" / "out")
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="cannot be written"):
        run.open({}, resume=False)

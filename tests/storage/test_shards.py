import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from secateur.core.errors import ModelError
from secateur.storage.shards import Checkpoint, write_checkpoint

TENSORS = {
    "a": torch.randn(3, 4),
    "b": torch.randn(2).bfloat16(),
    "c": torch.arange(5),
    "d": torch.randn(4, 4).half(),
    "e": torch.tensor(3.0),
}


def write(folder, limit):
    plan = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in TENSORS.items()}
    write_checkpoint(folder, plan, TENSORS.items(), shard_bytes=limit)
    return plan


@pytest.mark.parametrize("limit", [1, 60, 1 << 20])
def test_written_shards_are_read_by_safetensors_and_by_us(tmp_path, limit):
    plan = write(tmp_path, limit)
    checkpoint = Checkpoint(tmp_path)
    read = {name: tensor for file in tmp_path.glob("*.safetensors") for name, tensor in load_file(file).items()}
    assert sorted(checkpoint.names()) == sorted(TENSORS) == sorted(read)
    for name, tensor in TENSORS.items():
        assert checkpoint.info(name) == plan[name]
        assert torch.equal(checkpoint.read(name), tensor) and torch.equal(read[name], tensor)
    assert (tmp_path / "model.safetensors.index.json").exists() == (limit < 1 << 20)


def test_tensors_out_of_plan_are_refused(tmp_path):
    with pytest.raises(ModelError, match="expected 'a'"):
        write_checkpoint(tmp_path, {"a": (torch.float32, (1,))}, [("b", torch.zeros(1))], shard_bytes=100)


def test_damaged_folders_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        Checkpoint(tmp_path)
    write(tmp_path, 1 << 20)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-8])
    with pytest.raises(ModelError, match="truncated"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("places", [{}, {"x": "../outside.safetensors"}, {"x": "one.safetensors"}])
def test_a_bad_index_is_refused(tmp_path, places):
    save_file({"a": torch.zeros(1)}, tmp_path / "one.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(ModelError, match="weight_map|lacks 'x'"):
        Checkpoint(tmp_path)

import pytest
import torch

from secateur.infer.names import StoredNames
from secateur.storage.shards import Checkpoint
from tiny_decoders import tiny_decoder


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "jetmoe", "gemma3", "phimoe"])
def test_every_parameter_is_read_as_transformers_reads_it_and_written_as_it_was_stored(name, tmp_path):
    model = tiny_decoder(name)
    model.save_pretrained(tmp_path)
    checkpoint = Checkpoint(tmp_path)
    names = StoredNames(model, {stored: checkpoint.info(stored) for stored in checkpoint.names()})
    for parameter, value in model.named_parameters():
        group = names.group(parameter)
        values = names.read(group, checkpoint.read)
        assert torch.equal(values[parameter], value), parameter
        assert group.targets[parameter] == tuple(value.shape)
        for stored, tensor in names.write(group, values).items():
            assert torch.equal(tensor, checkpoint.read(stored)), stored
            assert names.group_of(stored) is group


def test_experts_are_one_group_of_many_stored_tensors_side_by_side(tmp_path):
    model = tiny_decoder("mixtral")
    model.save_pretrained(tmp_path)
    checkpoint = Checkpoint(tmp_path)
    names = StoredNames(model, {stored: checkpoint.info(stored) for stored in checkpoint.names()})
    group = names.group("model.layers.0.mlp.experts.gate_up_proj")
    assert len(group.sources) == 8 and not group.renamed
    ordered = sorted(checkpoint.names(), key=names.order)
    first = min(ordered.index(stored) for stored in group.sources)
    assert set(ordered[first : first + 8]) == set(group.sources)

import pytest
import torch

from secateur.infer.blocks import bare_blocks, probe_samples
from tiny_decoders import tiny_decoder


@pytest.mark.parametrize(
    ("name", "place"), [("gemma", "model.layers"), ("gptj", "transformer.h"), ("mamba", "backbone.layers")]
)
def test_blocks_are_the_repeated_modules(name, place):
    model = tiny_decoder(name)
    blocks = bare_blocks(model, probe_samples(model))
    assert [block.name for block in blocks] == [f"{place}.{number}" for number in range(3)]
    assert [block.number for block in blocks] == [0, 1, 2] and not any(block.whole for block in blocks)


@pytest.mark.parametrize("name", ["rwkv", "xlm", "reformer"])
def test_a_body_whose_parts_do_not_hand_on_hidden_states_is_one_block(name):
    model = tiny_decoder(name)
    (block,) = bare_blocks(model, probe_samples(model))
    assert block.whole and block.module is model.base_model


def test_probing_leaves_forward_methods_as_they_were():
    model = tiny_decoder("gemma")
    ids = probe_samples(model)
    before = model(ids).logits
    blocks = bare_blocks(model, ids)
    assert all("forward" not in vars(block.module) for block in blocks)
    assert torch.equal(model(ids).logits, before)

import pytest
import torch
from torch import nn

from conftest import tiny_model
from secateur.core.errors import ModelError
from secateur.infer.describe import describe_any, describe_decoder, infer, record
from tiny_decoders import tiny_decoder


def test_a_family_of_the_table_goes_by_its_row_and_another_by_what_it_computes():
    assert not describe_decoder(tiny_model("llama")).kind.inferred
    assert describe_decoder(tiny_decoder("gemma")).kind.inferred
    assert describe_any(tiny_decoder("gemma")).kind.inferred


def test_the_models_weights_are_untouched():
    model = tiny_decoder("gemma")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    infer(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_that_cannot_be_run_is_refused_with_its_reason():
    model = tiny_decoder("gemma")
    model.model.layers[0].self_attn.forward = None
    with pytest.raises(ModelError, match="GemmaForCausalLM cannot be run on token ids alone"):
        infer(model)


def test_a_model_without_products_is_refused():
    model = tiny_decoder("gemma")
    for number in range(3):
        model.model.layers[number] = _Nothing()
    with pytest.raises(ModelError, match="by no matrix of its blocks"):
        infer(model)


class _Nothing(nn.Module):
    def forward(self, hidden_states, **_):
        return hidden_states


def test_the_record_names_every_stage_and_what_is_left():
    found = record(infer(tiny_decoder("mixtral")))
    block = found["blocks"]["model.layers.0"]
    assert not found["whole"] and block["left"] == ["model.layers.0.mlp.gate.weight"]
    assert block["stages"][0]["layers"] == [f"model.layers.0.self_attn.{name}_proj" for name in "qkv"]

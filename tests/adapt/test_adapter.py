import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from conftest import CONFIGS, tiny_model
from secateur.adapt.adapter import Adapter, family_of
from secateur.core.errors import ModelError


@pytest.mark.parametrize("family", CONFIGS)
def test_stages_name_every_matrix_of_a_block_once(family):
    for block in Adapter(tiny_model(family)).blocks():
        layers = [layer for stage in block.stages() for layer in stage]
        matrices = [name for name, tensor in block.tensors().items() if tensor.dim() == 2]
        assert sorted(f"{layer.name}.weight" for layer in layers) == sorted(matrices)
        for stage in block.stages():
            assert len({layer.weight.shape[1] for layer in stage}) == 1


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_weights_are_out_by_in_however_stored(family):
    layer = Adapter(tiny_model(family)).blocks()[0].stages()[2][0]
    x = torch.randn(3, layer.weight.shape[1])
    bias = getattr(layer.module, "bias", None)
    assert torch.allclose(layer.module(x), torch.nn.functional.linear(x, layer.weight, bias), atol=1e-6)
    new = torch.randn_like(layer.weight)
    layer.set_weight(new)
    assert torch.equal(layer.weight, new)


def test_unknown_families_are_refused_with_the_way_to_add_one():
    with pytest.raises(ModelError, match=r"'bert' is not in the table .*llama.* add a row .*decoder_table\.py"):
        family_of(AutoConfig.for_model("bert"))


def test_quantised_checkpoints_are_refused():
    config = AutoConfig.for_model("llama")
    config.quantization_config = {"quant_method": "gptq"}
    with pytest.raises(ModelError, match="quantised"):
        family_of(config)


def test_a_model_that_lacks_a_named_part_is_refused():
    model = tiny_model("llama")
    del model.model.layers[1].mlp.up_proj
    with pytest.raises(ModelError, match=r"does not look like its family 'llama'.*up_proj"):
        Adapter(model)


def test_a_matrix_that_no_stage_names_is_refused_by_its_name():
    config = AutoConfig.for_model("gpt2", **CONFIGS["gpt2"], add_cross_attention=True)
    with pytest.raises(ModelError, match=r"transformer\.h\.0\.crossattention\..* belongs to no stage"):
        Adapter(AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize("family", CONFIGS)
def test_the_body_alone_is_seen_like_the_whole(family):
    model = tiny_model(family)
    body = [layer.weight.shape for layer in Adapter(model.base_model).layers()]
    assert body == [layer.weight.shape for layer in Adapter(model).layers()]

import pytest
from transformers import AutoConfig

from conftest import CONFIGS, tiny_model
from secateur.adapt.adapter import Adapter
from secateur.storage.resize import layer_sizes
from secateur.adapt.sites import Sizes
from secateur.surgery.config import depth_config, shrunk_config


def made(sizes, name="llama"):
    model = tiny_model(name)
    family = Adapter(model).family
    document = shrunk_config(model.config.to_dict(), model.config, family, sizes)
    return document, layer_sizes(type(model.config).from_dict(dict(document)), family)


def test_equal_sizes_use_the_stock_fields():
    document, listed = made([Sizes(2, 1, 40)] * 2)
    assert listed is None and document["head_dim"] == 8
    assert (document["num_attention_heads"], document["num_key_value_heads"]) == (2, 1)
    assert document["intermediate_size"] == 40


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3", "gemma3_text", "phi3", "gpt2", "opt", "gpt_neox"])
def test_unequal_sizes_use_the_standard_field(name):
    kv = (1, 1) if name == "gemma3_text" else (2, 1)
    sizes = [Sizes(4, kv[0], 48), Sizes(2, kv[1], 40)]
    if name in ("gpt2", "opt", "gpt_neox"):  # every head has its own key and value
        sizes = [Sizes(4, 4, 48), Sizes(3, 3, 40)]
    document, listed = made(sizes, name)
    assert listed == sizes and len(document["per_layer_config"]) == 2


def test_removed_blocks_leave_every_list():
    types = ["sliding_attention", "full_attention"]
    config = AutoConfig.for_model(**CONFIGS["gemma3_text"] | dict(model_type="gemma3_text", layer_types=types))
    document = config.to_dict() | {"per_layer_config": {"1": {"x": 1}}, "eos_token_id": [3, 4]}
    del document["layer_types"]  # a config may leave out what its class derives
    left = depth_config(document, config, [1])
    assert left["num_hidden_layers"] == 1 and left["layer_types"] == ["full_attention"]
    assert left["per_layer_config"] == {"0": {"x": 1}} and left["eos_token_id"] == [3, 4]

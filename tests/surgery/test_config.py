import pytest
from transformers import AutoConfig

from conftest import CONFIGS
from secateur.surgery.config import depth_config


def test_removed_blocks_leave_every_list():
    types = ["sliding_attention", "full_attention"]
    config = AutoConfig.for_model(**CONFIGS["gemma3_text"] | dict(model_type="gemma3_text", layer_types=types))
    document = config.to_dict() | {"per_layer_config": {"1": {"x": 1}}, "eos_token_id": [3, 4]}
    del document["layer_types"]  # a config may leave out what its class derives
    left = depth_config(document, config, [1])
    assert left["num_hidden_layers"] == 1 and left["layer_types"] == ["full_attention"]
    assert left["per_layer_config"] == {"0": {"x": 1}} and left["eos_token_id"] == [3, 4]


@pytest.mark.parametrize(
    ("name", "field"), [("gpt2", "n_layer"), ("llama", "num_hidden_layers"), ("opt", "num_hidden_layers")]
)
def test_the_count_is_written_where_the_config_leaves_it_to_its_class(name, field):
    config = AutoConfig.for_model(name)
    document = {key: value for key, value in config.to_dict().items() if key not in ("n_layer", "num_hidden_layers")}
    left = depth_config(document, config, [0, 1, 3])
    assert left[field] == 3 and type(config).from_dict(left).num_hidden_layers == 3

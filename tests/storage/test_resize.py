from transformers import LlamaConfig, LlamaForCausalLM

from conftest import CONFIGS
from secateur.storage.resize import shrinkable


def test_stock_models_are_untouched_quantised_ones_included():
    config = LlamaConfig(**CONFIGS["llama"], quantization_config={"quant_method": "gguf"})
    assert shrinkable(LlamaForCausalLM)(config).model.layers[1].mlp.up_proj.weight.shape == (48, 32)


def test_a_config_that_lists_sizes_makes_blocks_of_those_sizes():
    listed = LlamaConfig(**CONFIGS["llama"], head_dim=8, per_layer_config={"1": {"intermediate_size": 16}})
    made = shrinkable(LlamaForCausalLM)(listed)
    assert made.model.layers[1].mlp.up_proj.weight.shape == (16, 32) and made.config.is_heterogeneous

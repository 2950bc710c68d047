import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from conftest import CONFIGS, tiny_model
from secateur.adapt.adapter import Adapter
from secateur.storage.resize import layer_sizes, resize_, shrinkable
from secateur.adapt.sites import Sizes, block_sizes, head_dim
from secateur.core.errors import ModelError

IDS = torch.arange(3, 19)[None]


@pytest.mark.parametrize("family", CONFIGS)
def test_resized_blocks_run(family):
    model = tiny_model(family)
    width = head_dim(model.config)
    old = block_sizes(Adapter(model).blocks()[0], width)
    heads = old if family.startswith("bloom") else Sizes(old.heads // 2, max(old.kv_heads // 2, 1), old.ffn)
    sizes = [Sizes(heads.heads, heads.kv_heads, 24), Sizes(old.heads, old.kv_heads, 40)]
    resize_(model, sizes)
    assert [block_sizes(block, width) for block in Adapter(model).blocks()] == sizes
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.02)
    assert torch.isfinite(model(IDS).logits).all()


def test_stock_models_are_untouched_quantised_ones_included():
    config = LlamaConfig(**CONFIGS["llama"], quantization_config={"quant_method": "gguf"})
    assert shrinkable(LlamaForCausalLM)(config).model.layers[1].mlp.up_proj.weight.shape == (48, 32)


def test_sizes_come_from_the_standard_field():
    plain = LlamaConfig(**CONFIGS["llama"])
    family = Adapter(tiny_model("llama")).family
    assert layer_sizes(plain, family) is None
    listed = LlamaConfig(**CONFIGS["llama"], head_dim=8, per_layer_config={"1": {"intermediate_size": 16}})
    assert layer_sizes(listed, family) == [(4, 2, 48), (4, 2, 16)]
    made = shrinkable(LlamaForCausalLM)(listed)
    assert made.model.layers[1].mlp.up_proj.weight.shape == (16, 32) and made.config.is_heterogeneous
    with pytest.raises(ModelError, match="3 blocks"):
        resize_(tiny_model("llama"), [Sizes(4, 2, 48)] * 3)

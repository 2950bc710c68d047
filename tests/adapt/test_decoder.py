from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig

from conftest import CONFIGS, tiny_model
from secateur.adapt.block import Sizes
from secateur.adapt.decoder import _fields, listed_sizes, lists_sizes, resize_, shrunk_config
from secateur.adapt.decoder_table import DECODERS
from secateur.adapt.structure import describe
from secateur.core.errors import ModelError

IDS = torch.arange(3, 19)[None]


def listed(name, sizes):
    """A config of the dense model that lists these sizes."""
    config = tiny_model(name).config
    return type(config).from_dict(shrunk_config(config.to_dict(), config, sizes))


@pytest.mark.parametrize("family", CONFIGS)
def test_resized_blocks_run(family):
    structure = describe(tiny_model(family))
    old = structure.sizes[0]
    heads = old if family.startswith("bloom") else Sizes(old.heads // 2, max(old.kv_heads // 2, 1), old.ffn)
    ffn = 4 * structure.model.config.hidden_size if family.startswith("bloom") else 24
    sizes = [Sizes(heads.heads, heads.kv_heads, ffn), Sizes(old.heads, old.kv_heads, 128 if ffn > 24 else 40)]
    resize_(structure.blocks, listed(family, sizes))
    assert structure.sizes == sizes
    for parameter in structure.model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.02)
    assert torch.isfinite(structure.model(IDS).logits).all()


def test_sizes_come_from_the_standard_field():
    assert not lists_sizes(LlamaConfig(**CONFIGS["llama"]))
    config = LlamaConfig(**CONFIGS["llama"], head_dim=8, per_layer_config={"1": {"intermediate_size": 16}})
    assert lists_sizes(config) and listed_sizes(config) == [(4, 2, 48), (4, 2, 16)]
    with pytest.raises(ModelError, match="2 blocks, but the model has 3"):
        resize_(describe(tiny_model("llama", blocks=3)).blocks, config)


def test_equal_sizes_use_the_stock_fields():
    config = tiny_model("llama").config
    document = shrunk_config(config.to_dict(), config, [Sizes(2, 1, 40)] * 2)
    assert not lists_sizes(type(config).from_dict(dict(document))) and document["head_dim"] == 8
    assert (document["num_attention_heads"], document["num_key_value_heads"]) == (2, 1)
    assert document["intermediate_size"] == 40


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3", "gemma3_text", "phi3", "gpt2", "opt", "gpt_neox"])
def test_unequal_sizes_use_the_standard_field(name):
    kv = (1, 1) if name == "gemma3_text" else (2, 1)
    sizes = [Sizes(4, kv[0], 48), Sizes(2, kv[1], 40)]
    if name in ("gpt2", "opt", "gpt_neox"):  # every head has its own key and value
        sizes = [Sizes(4, 4, 48), Sizes(3, 3, 40)]
    assert listed_sizes(listed(name, sizes)) == sizes


def test_the_global_count_of_key_value_heads_is_the_dense_models():
    """Configs of before grouped queries leave it out, and the class takes as many as there are heads."""
    config = LlamaConfig(**CONFIGS["llama"] | {"num_key_value_heads": 4})
    document = {key: value for key, value in config.to_dict().items() if key != "num_key_value_heads"}
    written = shrunk_config(document, config, [Sizes(3, 3, 40), Sizes(4, 4, 48)])
    assert written["num_key_value_heads"] == 4
    assert listed_sizes(LlamaConfig.from_dict(written)) == [(3, 3, 40), (4, 4, 48)]


def test_shared_kv_heads_are_recorded_also_where_a_class_takes_no_width_of_heads():
    row = replace(DECODERS["llama"], free_heads=False)
    assert _fields(row, Sizes(4, 2, 8))["num_key_value_heads"] == 2
    assert "num_key_value_heads" not in _fields(row, Sizes(4, 4, 8))

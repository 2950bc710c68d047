import pytest
from safetensors import safe_open
from transformers import AutoConfig

from conftest import tiny_model
from secateur.core.errors import ModelError
from secateur.export.decilm import write_decilm
from secateur.run.prune import prune
from secateur.run.recipe import Recipe
from secateur.storage.source import Source


def read_as_vllm(config, block):
    """KV heads and ffn size as vLLM's DeciLM computes them."""
    part = config.block_configs[block]
    assert not part.attention.no_op and not part.ffn.no_op
    size = part.ffn.intermediate_size
    if hasattr(part.ffn, "ffn_mult"):
        size = int(2 * part.ffn.ffn_mult * config.hidden_size / 3)
        size += -size % 256
    return config.num_attention_heads // part.attention.n_heads_in_group, size


@pytest.mark.parametrize("settings", [dict(pattern="channels", round_to=1), dict(pattern="channels", round_to=256)])
def test_the_sizes_vllm_reads_are_those_of_the_tensors(settings, tmp_path, ids):
    tiny_model("llama", ffn=1024).save_pretrained(tmp_path / "dense")
    recipe = Recipe(method="slimgpt", ratio=0.4, allocator="incremental", **settings)
    prune(tmp_path / "dense", recipe, tmp_path / "small", ids=ids)
    (tmp_path / "out").mkdir()
    write_decilm(Source(tmp_path / "small"), tmp_path / "out")
    config = AutoConfig.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert config.architectures == ["DeciLMForCausalLM"] and "block_configs" in config.to_json_string()
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        for block in range(config.num_hidden_layers):
            kv_heads, ffn = read_as_vllm(config, block)
            assert file.get_slice(f"model.layers.{block}.mlp.up_proj.weight").get_shape()[0] == ffn
            rows = file.get_slice(f"model.layers.{block}.self_attn.k_proj.weight").get_shape()[0]
            assert rows == kv_heads * config.head_dim


def test_what_decilm_has_no_place_for_is_refused(saved, tmp_path, ids):
    with pytest.raises(ModelError, match="'gpt2'"):
        write_decilm(Source(saved("gpt2")), tmp_path)
    recipe = Recipe(method="slimgpt", ratio=0.4, allocator={"name": "incremental", "start": 0.0}, round_to=1)
    prune(saved("llama"), recipe, tmp_path / "small", ids=ids)
    with pytest.raises(ModelError, match="query heads once"):
        write_decilm(Source(tmp_path / "small"), tmp_path)

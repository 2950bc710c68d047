"""Classifiers, encoders and wrappers of text and pictures: pruned, written, loaded by plain transformers, as masked."""

import math

import pytest
import torch
import transformers
from transformers import AutoModelForImageTextToText, AutoModelForSequenceClassification
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from conftest import tiny_tokenizer, words
from secateur import Masks, Recipe, prune
from secateur.calibrate.data import Calibration
from secateur.core.errors import ModelError, RatioError
from secateur.evaluate.agreement import verify_folders
from secateur.infer.describe import infer
from secateur.run.recover import recover
from secateur.storage.source import Source, load_tokenizer
from secateur.train.recover import Training
from tiny_decoders import batch, tiny_decoder

CLASSIFIERS = "albert bert deberta-v2 distilbert funnel modernbert mpnet roberta xlnet llama qwen3_moe".split()
WRAPPERS = "llava qwen2_5_vl qwen3_vl qwen3_5 mistral3 mllama paligemma".split()


def wrapped():
    """Types of wrappers whose class is no language model's own."""
    own = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return [name for name, kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.items() if own.get(name) != kind]


def logits(model):
    with torch.no_grad():
        out = model(batch())
    return out.logits if "logits" in out else out[0]


def check_masks(name, folder, auto, method="wanda", pattern="row"):
    """A pruned model is the dense one with its masks, and whatever is not text stays as it was."""
    dense = tiny_decoder(name, auto)
    dense.save_pretrained(folder / "dense")
    dense = auto.from_pretrained(folder / "dense").eval()
    result = prune(folder / "dense", Recipe(method=method, pattern=pattern, ratio=0.5), folder / "out", ids=batch(6))
    pruned, report = auto.from_pretrained(folder / "out", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "mismatched_keys", "unexpected_keys"))
    assert type(pruned) is type(dense) and abs(result.sparsity - 0.5) < 0.02
    own, found = (dict(model.named_parameters(remove_duplicate=False)) for model in (dense, pruned.eval()))
    keep = Masks.load(folder / "out" / "masks.safetensors").keep
    for layer, mask in keep.items():
        key = _key(own, layer)
        if key is None:
            continue  # a matrix of a stack of experts: other laws look at those
        mask = mask if mask.shape == own[key].shape and not found[key][~mask].any() else mask.T
        with torch.no_grad():
            own[key].copy_(torch.where(mask, own[key] if method == "wanda" else found[key], 0))
    changed = {key for key in own if not torch.equal(own[key], found[key])}
    stacks = {layer.rpartition(".")[0] for layer in keep}
    assert all(any(key.endswith(stack.rpartition("model.")[2]) for stack in stacks) for key in changed)
    if not changed:
        assert torch.equal(logits(dense), logits(pruned))


def _key(own, layer):
    """The parameter of the plain class: a text part may stand under another name in it."""
    for name in (f"{layer}.weight", layer):
        if name in own:
            return name
    bare = layer.partition(".")[2]  # without the prefix of the body, or within a wrapper's
    fits = [key for key in own if key == f"{bare}.weight" or key.endswith(f".language_model.{bare}.weight")]
    return fits[0] if len(fits) == 1 else None


def check_units(name, folder, auto):
    dense = tiny_decoder(name, auto)
    dense.save_pretrained(folder / "dense")
    result = prune(folder / "dense", Recipe(pattern="heads+channels", ratio=0.15), folder / "out", ids=batch(6))
    small, report = auto.from_pretrained(folder / "out", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "mismatched_keys", "unexpected_keys"))
    gone = sum(value.numel() for value in dense.parameters()) - sum(value.numel() for value in small.parameters())
    assert gone == result.removed_weights > 0 and logits(small.eval()).isfinite().all()


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_pruned_classifier_is_the_dense_one_with_its_masks(name, tmp_path):
    check_masks(name, tmp_path, AutoModelForSequenceClassification)


@pytest.mark.parametrize("name", WRAPPERS)
def test_so_is_the_text_part_of_a_wrapper(name, tmp_path):
    check_masks(name, tmp_path, AutoModelForImageTextToText)


@pytest.mark.parametrize(
    ("name", "auto"),
    [
        ("mpnet", "AutoModel"),
        ("bert", "AutoModel"),
        ("distilbert", "AutoModelForMaskedLM"),
        ("deberta-v2", "AutoModelForTokenClassification"),
        ("roberta", "AutoModelForQuestionAnswering"),
    ],
)
def test_so_are_encoders_with_other_heads_and_without(name, auto, tmp_path):
    check_masks(name, tmp_path, getattr(transformers, auto), "sparsegpt", "2:4")


@pytest.mark.parametrize("name", ["albert", "bert", "mpnet", "modernbert", "deberta-v2"])
def test_classifiers_lose_units_and_verify(name, tmp_path):
    check_units(name, tmp_path, AutoModelForSequenceClassification)
    assert verify_folders(tmp_path / "dense", tmp_path / "out", tokens=16).logits < 1e-3


@pytest.mark.parametrize("name", ["llava", "qwen3_vl", "qwen3_5", "mllama"])
def test_so_do_wrappers(name, tmp_path):
    check_units(name, tmp_path, AutoModelForImageTextToText)


@pytest.mark.parametrize(
    ("name", "auto"),
    [
        ("mpnet", "AutoModelForSequenceClassification"),
        ("bert", "AutoModelForMaskedLM"),
        ("bert", "AutoModel"),
        ("llava", "AutoModelForImageTextToText"),
        ("qwen3_vl", "AutoModelForImageTextToText"),
    ],
)
def test_what_has_a_language_model_head_has_a_perplexity(name, auto, tmp_path):
    tiny_decoder(name, getattr(transformers, auto)).save_pretrained(tmp_path / "dense")
    tiny_tokenizer().save_pretrained(tmp_path / "dense")
    (tmp_path / "text.txt").write_text(words(200))
    calibration = Calibration(source=str(tmp_path / "text.txt"), samples=4, length=16)
    result = prune(tmp_path / "dense", Recipe(ratio=0.5, calibration=calibration), tmp_path / "out")
    assert result.calibration_tokens == 64 and (result.held_out is not None) == (auto == "AutoModelForImageTextToText")
    if result.held_out:
        _, kept = calibration.draw_held(load_tokenizer(Source(tmp_path / "dense")), 2)
        model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
        with torch.no_grad():
            told = model(kept[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(told.mT, kept[:, 1:])
        assert math.log(result.held_out["after"]) == pytest.approx(float(loss), rel=1e-4)


def test_units_too_coarse_to_lose_one_are_refused(tmp_path):
    tiny_decoder("idefics2", AutoModelForImageTextToText).save_pretrained(tmp_path / "dense")
    with pytest.raises(RatioError, match="removes no unit"):
        prune(tmp_path / "dense", Recipe(pattern="heads+channels", ratio=0.15), tmp_path / "out", ids=batch(4))


@pytest.mark.parametrize(
    ("name", "auto", "said"),
    [
        ("t5", "AutoModelForSequenceClassification", "no model that reads token ids alone"),
        ("bart", "AutoModelForSequenceClassification", "no model that reads token ids alone"),
        ("ibert", "AutoModelForSequenceClassification", "from its weights"),
        ("blip-2", "AutoModelForImageTextToText", "cannot be run on token ids alone"),
    ],
)
def test_what_does_not_read_token_ids_alone_is_refused_in_a_sentence(name, auto, said, tmp_path):
    tiny_decoder(name, getattr(transformers, auto)).save_pretrained(tmp_path / "dense")
    with pytest.raises(ModelError, match=said):
        prune(tmp_path / "dense", Recipe(method="magnitude", ratio=0.5), tmp_path / "out", ids=batch(4))


@pytest.mark.parametrize("name", ["bert", "albert"])
def test_methods_of_gradients_take_a_classifiers_own_answers(name, tmp_path):
    tiny_decoder(name, AutoModelForSequenceClassification).save_pretrained(tmp_path / "dense")
    recipe = Recipe(method="taylor", pattern="channels", ratio=0.2)
    result = prune(tmp_path / "dense", recipe, tmp_path / "out", ids=batch(4))
    assert result.removed_weights > 0
    assert verify_folders(tmp_path / "dense", tmp_path / "out", tokens=16).logits < 1e-3


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (Recipe(allocator="auto", ratio=0.5), "judges by the loss of next tokens"),
        (Recipe(pattern="channels", budget="0.7-ms"), "of tokens that it writes"),
    ],
)
def test_what_needs_next_tokens_is_refused_for_a_classifier(recipe, said, tmp_path):
    tiny_decoder("bert", AutoModelForSequenceClassification).save_pretrained(tmp_path / "dense")
    with pytest.raises(ModelError, match=said):
        prune(tmp_path / "dense", recipe, tmp_path / "out", ids=batch(8))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("auto", ["AutoModelForSequenceClassification", "AutoModelForMaskedLM"])
def test_so_it_is_where_a_model_is_trained_on_text(auto, tmp_path):
    tiny_decoder("bert", getattr(transformers, auto)).save_pretrained(tmp_path / "dense")
    tiny_tokenizer().save_pretrained(tmp_path / "dense")
    (tmp_path / "text.txt").write_text(words(2000))
    training = Training(steps=2, batch=2, length=8)
    with pytest.raises(ModelError, match="no language model"):
        recover(tmp_path / "dense", str(tmp_path / "text.txt"), tmp_path / "out", training)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["albert", "funnel", "qwen3_vl"])
def test_no_matrix_is_in_two_stages(name):
    model = tiny_decoder(
        name, AutoModelForImageTextToText if name == "qwen3_vl" else AutoModelForSequenceClassification
    )
    layers = [layer.name for block in infer(model).blocks for layer in block.layers]
    assert len(layers) == len(set(layers)) > 0


SLOW = [(name, AutoModelForSequenceClassification) for name in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES]
SLOW += [(name, AutoModelForImageTextToText) for name in wrapped()]


SAID = ("token ids alone", "no units", "from its weights", "few", "no unit", "does not fit its config")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "auto"), SLOW, ids=lambda value: value if isinstance(value, str) else "")
def test_every_type_that_can_be_built_is_pruned_or_refused_in_a_sentence(name, auto, tmp_path):
    try:
        logits(tiny_decoder(name, auto))
    except Exception as error:
        pytest.skip(f"{name} cannot be built, or run on token ids: {error}")
    try:
        check_masks(name, tmp_path, auto)
        check_units(name, tmp_path / "units", auto)
    except (ModelError, RatioError) as error:
        assert any(word in str(error) for word in SAID)

"""Every decoder that transformers can build: its perplexity is that of its own forward, whole and a block at a time."""

import math

import pytest
import torch

from conftest import tiny_tokenizer, words
from secateur import Recipe, prune
from secateur.calibrate.data import Calibration
from secateur.calibrate.stream import StreamSettings
from secateur.evaluate.perplexity import token_losses
from secateur.evaluate.streamed import streamed_perplexity
from secateur.storage.open_model import open_model
from secateur.storage.source import Source, load_model, load_tokenizer
from tiny_decoders import batch, causal_types, tiny_decoder

SPREAD = (  # scaled, capped or transformed logits; attention that looks ahead; heads stored, tied, or past the body
    "cohere cohere2 gemma2 gemma3 gemma3n_text minicpm3 llama4_text granite bert roberta rembert bart prophetnet ctrl "
    "openai-gpt cpmant bigbird_pegasus recurrent_gemma modernbert-decoder xlnet xlm rwkv mamba2 gptj mpt zamba2 mixtral"
).split()


def check_losses(name, folder, monkeypatch):
    monkeypatch.setattr("secateur.evaluate.perplexity._LOGIT_ROWS", 15)
    tiny = tiny_decoder(name)
    with torch.no_grad():
        tiny.get_input_embeddings().weight[0] = 0  # the padding: youtu's is made 0 as it is loaded
    tiny.save_pretrained(folder)
    model, ids = load_model(Source(folder)), batch(4)
    with torch.no_grad():
        logits = model(ids[:, :-1], use_cache=False).logits.float()
    expected = torch.nn.functional.cross_entropy(logits.mT, ids[:, 1:], reduction="none")
    torch.testing.assert_close(token_losses(model, ids), expected, rtol=1e-4, atol=1e-4)
    opened, settings = open_model(Source(folder)), StreamSettings(batch_tokens=2 * ids.shape[1])
    streamed = streamed_perplexity(opened, ids, settings)
    assert math.log(streamed) == pytest.approx(float(expected.mean()), rel=1e-4)


@pytest.mark.parametrize("name", SPREAD)
def test_losses_are_the_models_own(name, tmp_path, monkeypatch):
    check_losses(name, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", causal_types())
def test_so_are_those_of_every_type_that_can_be_built(name, tmp_path, monkeypatch):
    try:
        tiny_decoder(name)
    except Exception as error:
        pytest.skip(f"{name} cannot be built: {error}")
    if name in {"emu3", "mllama"}:
        pytest.skip(f"{name}: the class for text alone is built from a config that AutoModelForCausalLM does not know")
    check_losses(name, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", ["gemma3n_text", "bert", "ctrl", "openai-gpt", "xlnet", "rwkv", "cohere"])
def test_a_run_from_text_ends_with_the_perplexity_of_what_it_wrote(name, tmp_path):
    tiny_decoder(name).save_pretrained(tmp_path / "dense")
    tiny_tokenizer().save_pretrained(tmp_path / "dense")
    (tmp_path / "text.txt").write_text(words(200))
    calibration = Calibration(source=str(tmp_path / "text.txt"), samples=4, length=16)
    recipe = Recipe(method="wanda", ratio=0.5, calibration=calibration)
    held = prune(tmp_path / "dense", recipe, tmp_path / "out").held_out
    _, kept = calibration.draw_held(load_tokenizer(Source(tmp_path / "dense")), 2)
    for side, folder in (("before", "dense"), ("after", "out")):
        losses = token_losses(load_model(Source(tmp_path / folder)), kept)
        assert math.log(held[side]) == pytest.approx(float(losses.double().mean()), rel=1e-4)

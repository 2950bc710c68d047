import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import CONFIGS, tiny_model, tiny_tokenizer, words
from secateur.core.errors import InputError
from secateur.evaluate.perplexity import Perplexity, token_losses


@pytest.mark.parametrize("family", CONFIGS)
def test_losses_equal_the_models_own(family, ids):
    model = tiny_model(family)
    losses = token_losses(model, ids)
    assert losses.shape == (5, 15)
    with torch.no_grad():
        assert float(losses.mean()) == pytest.approx(float(model(ids, labels=ids).loss), rel=1e-4)


@given(st.integers(2, 90), st.integers(2, 20), st.integers(1, 20), st.integers(0, 1))
def test_every_token_is_scored_exactly_once(tokens, length, stride, prefix):
    plan = Perplexity(length=length, stride=min(stride, length))
    scored = []
    for start, count in plan.windows(tokens, prefix):
        end = min(start + length - prefix, tokens)
        scored += range(end - count, end)
        assert end - start + prefix > count  # every scored token has something before it
    assert scored == sorted(set(scored))
    first = 0 if prefix else 1
    if length - prefix > 1 and (prefix or min(stride, length) < length):
        assert scored == list(range(first, tokens))


def test_perplexity_is_the_mean_over_scored_tokens(tmp_path):
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    path = tmp_path / "a.txt"
    path.write_text(words(50))
    ids = torch.tensor([tokenizer(words(50)).input_ids])
    whole = Perplexity(source=str(path), length=64).measure(model, tokenizer)
    assert whole["tokens"] == 49
    assert math.log(whole["perplexity"]) == pytest.approx(float(token_losses(model, ids).mean()), rel=1e-4)
    parts = [token_losses(model, ids[:, at : at + 20]).flatten() for at in (0, 20, 40)]
    cut = Perplexity(source=str(path), length=20).measure(model, tokenizer)
    assert cut["tokens"] == 47
    assert math.log(cut["perplexity"]) == pytest.approx(float(torch.cat(parts).mean()), rel=1e-4)
    strided = Perplexity(source=str(path), length=20, stride=5).measure(model, tokenizer)
    assert strided["tokens"] == 49
    assert Perplexity(source=str(path), length=20, limit=1).measure(model, tokenizer)["tokens"] == 19


def test_nothing_to_score_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("w5")
    with pytest.raises(InputError, match="1 tokens, too few"):
        Perplexity(source=str(tmp_path / "a.txt")).measure(tiny_model("llama"), tiny_tokenizer())
    for wrong in ({"length": 1}, {"stride": 0}, {"stride": 2000}, {"limit": 0}):
        with pytest.raises(InputError, match="perplexity needs"):
            Perplexity(**wrong)


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_the_default_window_is_the_models_own(family, text):
    model, tokenizer = tiny_model(family), tiny_tokenizer()  # 64 positions, 400 tokens
    found = Perplexity(source=str(text)).measure(model, tokenizer)
    assert found == Perplexity(source=str(text), length=64).measure(model, tokenizer)
    assert found["tokens"] == 400 - 7


def test_windows_and_ids_the_model_cannot_read_are_named(text):
    model, tokenizer = tiny_model("gpt2"), tiny_tokenizer()
    with pytest.raises(InputError, match="65 tokens are longer than the 64 positions"):
        Perplexity(source=str(text), length=65).measure(model, tokenizer)
    model.resize_token_embeddings(50)
    with pytest.raises(InputError, match="outside the model's vocabulary of 50"):
        Perplexity(source=str(text)).measure(model, tokenizer)
    tokenizer = tiny_tokenizer(bos=True)
    assert Perplexity(source=str(text), length=2, limit=3).measure(tiny_model("llama"), tokenizer)["tokens"] == 3


def test_a_window_the_tokenizer_fills_alone_is_refused(text, monkeypatch):
    monkeypatch.setattr("secateur.evaluate.perplexity.text_ids", lambda *_: (torch.arange(3, 99), [1, 2]))
    with pytest.raises(InputError, match="hold no text"):
        Perplexity(source=str(text), length=2).measure(tiny_model("llama"), tiny_tokenizer())

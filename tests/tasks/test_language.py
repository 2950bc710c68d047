import pytest

from conftest import task_model, tiny_model, tiny_tokenizer
from secateur.core.errors import InputError
from secateur.evaluate.perplexity import Perplexity
from secateur.tasks.language import language_task
from secateur.tasks.task import score


@pytest.mark.parametrize("bos", [False, True])
def test_perplexity_is_the_evaluators_over_whole_windows(text, bos):
    model, tokenizer = tiny_model("llama"), tiny_tokenizer(bos=bos)
    task = language_task(str(text), model, tokenizer, batch=4, length=16)
    windows = len(task.parts(model))
    expected = Perplexity(source=str(text), length=16, limit=windows).measure(model, tokenizer)["perplexity"]
    assert score(task, model) == pytest.approx(expected, rel=1e-4) and windows == 400 // (16 - bos)


def test_the_loss_sums_over_tokens(text):
    model = tiny_model("llama").requires_grad_(False)
    task = language_task(str(text), model, tiny_tokenizer(), limit=3, batch=3, length=16)
    parts = task.parts(model)
    assert float(task.loss(model, task.batches[0])) == pytest.approx(parts[:, 0].sum(), rel=1e-5)
    assert parts[:, 1].tolist() == [15, 15, 15]


def test_a_masked_model_guesses_hidden_tokens_only(text):
    model = task_model("BertForMaskedLM")
    task = language_task(str(text), model, tiny_tokenizer(mask=True), batch=8, length=32)
    ids, labels = task.batches[0]["input_ids"], task.batches[0]["labels"]
    assert not task.causal and 0.1 < float((labels != -100).float().mean()) < 0.2
    assert bool((ids[labels != -100] == 98).all()) and bool((ids[:, -1] == 2).all())
    assert score(task, model) > 1
    with pytest.raises(InputError, match="no mask token"):
        language_task(str(text), model, tiny_tokenizer(), length=32)


def test_too_little_text_is_refused(text):
    with pytest.raises(InputError, match="fewer than one window"):
        language_task(str(text), tiny_model("llama"), tiny_tokenizer(), length=500)


def test_every_window_of_a_masked_model_hides_a_token(text):
    model = task_model("BertForMaskedLM")
    task = language_task(str(text), model, tiny_tokenizer(mask=True), batch=400, length=3)
    assert task.parts(model)[:, 1].min() >= 1 and task.batches[0]["labels"].shape == (200, 3)


@pytest.mark.parametrize("name", ["BertForMaskedLM", "gpt2", "opt"])
def test_windows_longer_than_the_positions_are_refused(name, text):
    model = task_model(name) if name.startswith("Bert") else tiny_model(name)
    language_task(str(text), model, tiny_tokenizer(mask=True), length=64)
    with pytest.raises(InputError, match="65 tokens are longer than the 64 positions"):
        language_task(str(text), model, tiny_tokenizer(mask=True), length=65)


def test_ids_outside_the_vocabulary_are_refused(text):
    model = tiny_model("llama")
    model.resize_token_embeddings(50)
    with pytest.raises(InputError, match="outside the model's vocabulary of 50"):
        language_task(str(text), model, tiny_tokenizer(), length=16)

import pytest

from conftest import words
from secateur.core.errors import InputError, ModelError
from secateur.evaluate.measure import measure
from secateur.evaluate.perplexity import Perplexity


def test_keys_are_those_promised(saved, tmp_path):
    (tmp_path / "a.txt").write_text(words(60))
    (tmp_path / "quiz.jsonl").write_text('{"query": "w3", "choices": ["w4", "w5"], "gold": 0}')
    steps = []
    found = measure(
        saved("llama"),
        Perplexity(source=str(tmp_path / "a.txt"), length=16),
        [tmp_path / "quiz.jsonl"],
        progress=lambda done, total: steps.append((done, total)),
    )
    assert found["tokens"] == 56 and found["perplexity"] > 1
    assert found["tasks"]["quiz"].keys() == {"acc", "acc_stderr", "acc_norm", "acc_norm_stderr", "n"}
    assert steps == [(0, 4), (1, 4), (2, 4), (3, 4), (0, 1)]  # windows of 16, 15 of them scored; then questions


def test_mistakes_show_before_the_model_is_loaded(tmp_path):
    with pytest.raises(InputError, match="nothing to measure"):
        measure("missing")
    with pytest.raises(InputError, match="dtype 'x'"):
        measure("missing", "bundled", dtype="x")
    with pytest.raises(InputError, match="quiz.jsonl' cannot be read"):
        measure("missing", tasks=[tmp_path / "quiz.jsonl"])
    with pytest.raises(ModelError):
        measure(str(tmp_path), "bundled")


def test_a_model_without_tokenizer_cannot_score_text(saved, tmp_path):
    from conftest import tiny_model

    tiny_model("llama").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no tokenizer"):
        measure(tmp_path, "bundled")


def test_a_window_longer_than_the_positions_is_refused_before_the_model_is_loaded(saved, text, monkeypatch):
    assert measure(saved("gpt2"), str(text))["tokens"] == 400 - 7  # 64 positions, not 1024
    monkeypatch.setattr("secateur.evaluate.measure.load_model", None)
    with pytest.raises(InputError, match="perplexity: samples of 65 tokens are longer than the 64 positions"):
        measure(saved("gpt2"), Perplexity(source=str(text), length=65))


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_no_text_and_no_model(name, saved, monkeypatch):
    with pytest.raises(InputError, match=f"perplexity '{name}' names no text"):
        measure(saved("llama"), name)
    monkeypatch.chdir(saved("llama"))  # an empty path is the folder one is in
    with pytest.raises(ModelError, match=f"model '{name}' is no name"):
        measure(name, "bundled")

import json

import pytest
import torch

from conftest import tiny_model, tiny_tokenizer
from secateur.core.errors import InputError
from secateur.evaluate.zeroshot import ZeroShot, log_likelihoods, read_questions

ROWS = {
    "choices": {"query": "w3 w4", "choices": ["w5 w6", "w7", "w8 w9 w10"], "gold": 1},
    "contexts": {"context_options": ["w3 w4", "w5"], "continuation": "w6 w7", "gold": 0},
}


def write(tmp_path, *rows):
    path = tmp_path / "task.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def reference(model, tokenizer, context, continuation):
    """Log-likelihood of a continuation, one token at a time."""
    ids = tokenizer(context).input_ids
    total = 0.0
    for token in tokenizer(continuation).input_ids:
        with torch.no_grad():
            total += float(model(torch.tensor([ids])).logits[0, -1].log_softmax(dim=-1)[token])
        ids = [*ids, token]
    return total


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
def test_likelihoods_and_choices_follow_their_definition(tmp_path, kind, family):
    model, tokenizer = tiny_model(family), tiny_tokenizer()
    path = write(tmp_path, ROWS[kind])
    (question,) = read_questions(path, None)
    expected = [reference(model, tokenizer, *pair) for pair in question.candidates]
    assert log_likelihoods(model, tokenizer, question.candidates) == pytest.approx(expected, rel=1e-4)
    found = ZeroShot(path=path).measure(model, tokenizer)
    per_byte = [value / len(text) for value, (_, text) in zip(expected, question.candidates, strict=True)]
    assert found["acc"] == float(expected.index(max(expected)) == question.gold)
    assert found["acc_norm"] == float(per_byte.index(max(per_byte)) == question.gold)
    assert found["n"] == 1


def test_a_lone_continuation_must_be_the_first_choice_at_every_token(tmp_path):
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    ids = torch.tensor([tokenizer("w3 w4 w5").input_ids])
    told = model.generate(ids, max_new_tokens=2, do_sample=False)[0, 3:]
    right = {"context": "w3 w4 w5", "continuation": " ".join(f"w{i}" for i in told.tolist())}
    wrong = right | {"continuation": f"w{int(told[0])} w{3 + (int(told[1]) + 1) % 90}"}
    assert min(told) > 2
    found = ZeroShot(path=write(tmp_path, right, wrong)).measure(model, tokenizer)
    assert found["acc"] == found["acc_norm"] == 0.5
    assert ZeroShot(path=write(tmp_path, right, wrong), limit=1).measure(model, tokenizer)["acc"] == 1.0


def test_questions_are_asked_as_lm_eval_asks_them(tmp_path):
    rows = [{"query": text, "choices": ["a"], "gold": 0} for text in ("Question: x?", "Question: x?\nAnswer:", "We go")]
    asked = [question.candidates[0][0] for question in read_questions(write(tmp_path, *rows), None)]
    assert asked == ["Question: x?\nAnswer:", "Question: x?\nAnswer:", "We go"]


@pytest.mark.parametrize("row", [{"query": "x"}, {"query": "x", "choices": ["a"], "gold": 3}, [], {"choices": 3}])
def test_rows_that_do_not_fit_are_named(tmp_path, row):
    with pytest.raises(InputError, match="line 2"):
        read_questions(write(tmp_path, ROWS["choices"], row), None)


def test_files_without_rows_are_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_questions(tmp_path / "missing.jsonl", None)
    with pytest.raises(InputError, match="has no row"):
        read_questions(write(tmp_path), None)
    with pytest.raises(InputError, match="limit 0"):
        read_questions(write(tmp_path, ROWS["choices"]), 0)


def test_equals_lm_evals_own_scorer():
    huggingface = pytest.importorskip("lm_eval.models.huggingface", reason="needs the eval extra")
    from lm_eval.api.instance import Instance

    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    pairs = [("w3 w4", " w5 w6"), ("w7", " w8")]
    scorer = huggingface.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1)
    requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    theirs = [value for value, _ in scorer.loglikelihood(requests, disable_tqdm=True)]
    assert log_likelihoods(model, tokenizer, pairs) == pytest.approx(theirs, rel=1e-4)

import json

import pytest
import torch

from conftest import tiny_model, tiny_tokenizer, words
from secateur.core.errors import InputError, NumericalError
from secateur.evaluate.perplexity import token_losses
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
    shares = [value / len(text.strip()) for value, (_, text) in zip(expected, question.candidates, strict=True)]
    assert found["acc"] == float(expected.index(max(expected)) == question.gold)
    assert found["acc_norm"] == float(shares.index(max(shares)) == question.gold)
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


def fixed(values, monkeypatch):
    """Every candidate's log-likelihood, in the order of the file."""
    monkeypatch.setattr("secateur.evaluate.zeroshot.log_likelihoods", lambda *_: values)


@pytest.mark.parametrize(
    ("choices", "sums", "norm"),
    [
        (["ab", "abcd"], [-1.9, -3.9], 0),  # per character .95 and .975; with the space before it .63 and .78
        (["a", "abc"], [-2.0, -5.0], 1),  # 2 and 1.67; with the space 1 and 1.25
        (["éé", "abc"], [-2.0, -2.7], 1),  # 1 and 0.9 a character; bytes would say 0.5 and 0.9
        (["  a ", "b"], [-1.0, -1.1], 0),  # spaces around a choice are not counted
    ],
)
def test_acc_norm_is_by_characters_of_the_choice_alone(tmp_path, monkeypatch, choices, sums, norm):
    fixed(sums, monkeypatch)
    for gold in (0, 1):
        path = write(tmp_path, {"query": "w3", "choices": choices, "gold": gold})
        found = ZeroShot(path=path).measure(tiny_model("llama"), tiny_tokenizer())
        assert found["acc_norm"] == float(norm == gold) and found["acc"] == float(gold == 0)


@pytest.mark.parametrize("bos", [False, True])
def test_an_empty_context_is_the_bos_or_else_the_eos_token(bos):
    model, tokenizer = tiny_model("llama"), tiny_tokenizer(bos=bos)
    after = torch.tensor([[1, 5, 6]])
    expected = -float(token_losses(model, after).sum())
    for context in ("", "  "):
        assert log_likelihoods(model, tokenizer, [(context, " w5 w6")]) == pytest.approx([expected], rel=1e-5)
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = None
    expected = -float(token_losses(model, torch.tensor([[2, 5, 6]])).sum())
    assert log_likelihoods(model, tokenizer, [("", " w5 w6")]) == pytest.approx([expected], rel=1e-5)
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="BOS or EOS"):
        log_likelihoods(model, tokenizer, [("", " w5 w6")])


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_what_is_longer_than_the_model_loses_its_beginning(family):
    model, tokenizer = tiny_model(family), tiny_tokenizer()  # 64 positions
    context, continuation = words(100), " " + words(5, 1)
    ids = tokenizer(context + continuation, verbose=False).input_ids[-65:]
    expected = reference(model, tokenizer, " ".join(f"w{i}" for i in ids[:60]), continuation)
    assert log_likelihoods(model, tokenizer, [(context, continuation)]) == pytest.approx([expected], rel=1e-4)
    with pytest.raises(InputError, match="70 tokens; a model of 64"):
        log_likelihoods(model, tokenizer, [("w3", " " + words(70))])


def test_likelihoods_that_are_not_numbers_and_strange_ids_are_refused():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    small = tiny_model("llama")
    small.resize_token_embeddings(50)
    with pytest.raises(InputError, match="token id 90 is outside the model's vocabulary of 50"):
        log_likelihoods(small, tokenizer, [("w3", " w90")])
    model.lm_head.weight.data[3] = float("nan")
    with pytest.raises(NumericalError, match="NaN"):
        log_likelihoods(model, tokenizer, [("w3", " w4")])


ODD = [
    {"query": "x"},
    {"query": "x", "choices": ["a"], "gold": 3},
    [],
    {"choices": 3},
    {"query": "x", "choices": "abc", "gold": 0},
    {"query": "x", "choices": ["a", "b"], "gold": 0.9},
    {"query": "x", "choices": ["a", "b"], "gold": True},
    {"query": 3, "choices": ["a", "b"], "gold": 0},
    {"context": 3, "continuation": "a"},
    {"context_options": "ab", "continuation": "a", "gold": 0},
]


@pytest.mark.parametrize("row", ODD)
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


PAIRS = [("w3 w4", " w5 w6"), ("w7", " w8"), ("", " w8 w9"), ("w3 ", "w4"), ("w3  ", " w4"), (words(90), " w5 w6")]


@pytest.mark.parametrize("bos", [False, True])
def test_equals_lm_evals_own_scorer(bos):
    huggingface = pytest.importorskip("lm_eval.models.huggingface", reason="needs the eval extra")
    from lm_eval.api.instance import Instance

    model, tokenizer = tiny_model("llama"), tiny_tokenizer(bos=bos)
    scorer = huggingface.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1)
    requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(PAIRS)]
    theirs = [value for value, _ in scorer.loglikelihood(requests, disable_tqdm=True)]
    assert log_likelihoods(model, tokenizer, PAIRS) == pytest.approx(theirs, rel=1e-4)


@pytest.mark.slow
def test_accuracies_equal_lm_evals_own_on_the_same_file(tmp_path):
    lm_eval = pytest.importorskip("lm_eval", reason="needs the eval extra")
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    rows = [
        {"query": words(4, row), "choices": [words(1 + (row + place) % 4, 99 * row + place) for place in range(4)]}
        | {"gold": row % 4}
        for row in range(60)
    ]
    path = write(tmp_path, *rows)
    settings = {"task": "mine", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(path)}}}
    settings |= {"test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{query}}"}
    settings |= {"doc_to_target": "gold", "doc_to_choice": "choices"}
    settings["metric_list"] = [{"metric": name} for name in ("acc", "acc_norm")]
    (tmp_path / "mine.yaml").write_text(json.dumps(settings))
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    scorer = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1)
    manager = TaskManager(include_path=str(tmp_path))
    theirs = lm_eval.simple_evaluate(scorer, tasks=["mine"], task_manager=manager, bootstrap_iters=0)["results"]["mine"]
    ours = ZeroShot(path=path).measure(model, tokenizer)
    for name in ("acc", "acc_norm"):
        assert ours[name] == pytest.approx(theirs[f"{name},none"])
    assert ours["acc"] != ours["acc_norm"]

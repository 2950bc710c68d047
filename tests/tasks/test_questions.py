import json

import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing
from transformers import BertForMultipleChoice, BertForQuestionAnswering

from conftest import tiny_tokenizer, words
from secateur.core.errors import InputError
from secateur.tasks.questions import choices_task, read_questions, spans_task, word_f1
from secateur.tasks.task import score
from task_cases import bert, sentences

READER, CHOOSER = bert(BertForQuestionAnswering), bert(BertForMultipleChoice)
TEXTS = [words(4 + row % 7, row) for row in range(20)]


def tokenizer():
    """Pairs as <s> a </s> b."""
    made = tiny_tokenizer(mask=True)
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A </s> $B:1", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return made


def asked(row, text):
    """A row whose answer is one or two words of its text, or none."""
    if row % 5 == 4:
        return {"question": "w9 w10", "context": text, "answers": {"text": [], "answer_start": []}}
    parts = text.split()
    place = row % (len(parts) - 1)
    answer = " ".join(parts[place : place + 1 + row % 2])
    start = len(" ".join(parts[:place])) + (place > 0)
    return {"question": "w9 w10", "context": text, "answers": {"text": [answer], "answer_start": [start]}}


ROWS = [asked(row, text) for row, text in enumerate(TEXTS)]


def test_spans_are_those_of_questions_one_by_one(tmp_path):
    task = spans_task(sentences(tmp_path / "a.jsonl", ROWS), READER, tokenizer(), batch=6)
    scores, loss = [], 0.0
    for row in ROWS:
        parts = row["context"].split()
        out = READER(**tokenizer()(row["question"], row["context"], return_tensors="pt"))
        first, last = out.start_logits[0], out.end_logits[0]
        spans = [(float(first[4 + a] + last[4 + b]), " ".join(parts[a : b + 1]))
                 for a in range(len(parts)) for b in range(a, len(parts))]  # fmt: skip
        best, text = max(spans)
        text = "" if best < float(first[0] + last[0]) else text
        (answer,) = row["answers"]["text"] or [""]
        scores.append(word_f1(text, answer))
        ends = [0, 0]
        if answer:
            place = row["context"][: row["answers"]["answer_start"][0]].count(" ")
            ends = [4 + place, 4 + place + answer.count(" ")]
        loss -= float(first.log_softmax(0)[ends[0]] + last.log_softmax(0)[ends[1]]) / 2
    assert score(task, READER) == pytest.approx(np.mean(scores)) and 0 < np.mean(scores) < 1
    assert sum(float(task.loss(READER, batch)) for batch in task.batches) == pytest.approx(loss, rel=1e-5)


def test_an_answer_that_is_cut_off_is_missed_and_has_no_loss(tmp_path):
    row = {"question": "w3", "context": "w4 w5 w6 w7", "answers": [{"text": "w7", "answer_start": 9}]}
    task = spans_task(sentences(tmp_path / "a.jsonl", [row]), READER, tokenizer(), length=6)
    (batch,) = task.batches
    assert batch["labels"].tolist() == [[-100, -100]] and float(task.loss(READER, batch)) == 0.0
    assert score(task, READER) == 0.0


def test_the_first_answer_that_is_not_cut_off_is_learned_from_and_long_questions_are_cut(tmp_path):
    both = [{"text": "w7", "answer_start": 9}, {"text": "w5", "answer_start": 3}]
    row = {"question": "w3", "context": "w4 w5 w6 w7", "answers": both}
    task = spans_task(sentences(tmp_path / "a.jsonl", [row]), READER, tokenizer(), length=6)
    assert task.batches[0]["labels"].tolist() == [[4, 4]]
    row["question"] = " ".join(["w8"] * 70)
    task = spans_task(sentences(tmp_path / "a.jsonl", [row]), READER, tokenizer(), length=64)
    assert task.batches[0]["input_ids"].shape == (1, 64) and 0 <= score(task, READER) <= 1


def test_squads_own_form_is_read(tmp_path):
    asks = []
    for row, one in enumerate(ROWS):
        pairs = zip(*one["answers"].values(), strict=True)
        answers = [{"text": text, "answer_start": start} for text, start in pairs]
        asks.append({"id": str(row), "question": one["question"], "answers": answers})
    data = [{"paragraphs": [{"context": one["context"], "qas": [ask]}]} for one, ask in zip(ROWS, asks, strict=True)]
    (tmp_path / "a.json").write_text(json.dumps({"data": data}))
    flat = read_questions(sentences(tmp_path / "a.jsonl", ROWS))
    assert read_questions(tmp_path / "a.json") == flat and len(read_questions(tmp_path / "a.json", 3)) == 3


@pytest.mark.parametrize(
    ("said", "answer", "f1"),
    [
        ("The cat!", "cat", 1.0),
        ("“a” b", "b", 0.5),
        ("the", "", 1.0),
        ("a b c", "b c d", 2 * 2 / (2 + 3)),
        ("", "", 1.0),
        ("x", "", 0.0),
        ("x x", "x", 2 / 3),
    ],
)
def test_f1_of_words_leaves_case_marks_and_articles_out(said, answer, f1):
    assert word_f1(said, answer) == pytest.approx(f1)


@pytest.mark.parametrize("shape", ["choices", "ending", "race", "commonsense", "arc", "copa"])
def test_choices_are_those_of_rows_one_by_one(shape, tmp_path):
    rows, right = [], 0
    for number, text in enumerate(TEXTS):
        own, label = [words(2 + (number + at) % 3, 50 + number + at) for at in range(3)], number % 3
        rows.append({
            "choices": {"context": text, "choices": own, "label": label},
            "ending": {"sent1": text, "sent2": "w3", "label": label} | {f"ending{at}": own[at] for at in range(3)},
            "race": {"article": text, "question": "w4 w5", "options": own, "answer": "ABC"[label]},
            "commonsense": {"question": text, "choices": {"text": own, "label": [*"ABC"]}, "answerKey": "ABC"[label]},
            "arc": {"question": text, "choices": {"text": own, "label": list("213")}, "answerKey": "213"[label]},
            "copa": {"premise": text, "question": "w4 w5", "label": label}
            | {f"choice{at + 1}": own[at] for at in range(3)},
        }[shape])  # fmt: skip
        lead = {"ending": "w3 ", "race": "w4 w5 ", "copa": "w4 w5 "}.get(shape, "")
        outs = []
        for one in own:
            ids = tokenizer()(text, lead + one, return_tensors="pt")
            outs.append(float(CHOOSER(**{name: value[:, None] for name, value in ids.items()}).logits))
        right += int(np.argmax(outs)) == label
    task = choices_task(sentences(tmp_path / "a.jsonl", rows), CHOOSER, tokenizer(), batch=6)
    assert score(task, CHOOSER) == pytest.approx(right / len(rows)) and 0 < right < len(rows)
    assert [batch["input_ids"].dim() for batch in task.batches] == [3] * 4


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "w3"}, "question and a context"),
        ({"question": "w3", "context": "w4", "answers": ["w4"]}, "each with its answer_start"),
        ({"question": "w3", "context": "w4", "answers": {"text": ["w4"], "answer_start": []}}, "each with its"),
        ({"question": "w3", "context": "w4", "answers": [{"text": "w5", "answer_start": 0}]}, "does not stand"),
        ({"question": "w3", "context": "w4", "answers": [{"text": "w4", "answer_start": -2}]}, "does not stand"),
        ({"question": "w3", "context": "w4", "answers": [{"text": "", "answer_start": 0}]}, "does not stand"),
        ({"question": "w3", "context": "w4", "answers": 3}, "each with its answer_start"),
        ({"question": "w3", "context": "w4"}, "has no answers"),
        ({"question": "w3", "context": "w4", "answers": [{"text": "w4", "answer_start": 1e999}]}, "each with its"),
        ({"question": "w3", "context": "w4", "answers": [{"text": "w4", "answer_start": 0.5}]}, "each with its"),
    ],
)
def test_questions_that_cannot_be_used_are_refused_by_their_row(row, said, tmp_path):
    with pytest.raises(InputError, match=said):
        read_questions(sentences(tmp_path / "a.jsonl", [row]))


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"data": 3}', '{"data": [{"paragraphs": [{"qas": []}, 4]}]}', '{"data": []}']
)
def test_files_that_are_no_squad_are_refused(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError):
        read_questions(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"context": "w3", "choices": ["w4"], "label": 0}], "two choices or more"),
        ([{"choices": ["w4", "w5"], "label": 0}], "a context"),
        ([{"context": "w3", "choices": [None, "w5"], "label": 0}], "two choices or more"),
        ([{"context": "w3", "choices": [["w4"], "w5"], "label": 0}], "two choices or more"),
        ([{"context": "w3", "choices": ["w4", "w5"], "label": 2}], "row 1 has 2"),
        ([{"context": "w3", "choices": ["w4", "w5"], "label": "one"}], "a letter from A"),
        ([{"context": "w3", "choices": ["w4", "w5"]}], "a letter from A"),
        ([{"question": "w3", "choices": {"text": ["w4", "w5"], "label": ["1", "2"]}, "answerKey": "3"}], "one of 1, 2"),
        ([{"context": "w3", "choices": ["w4", "w5"], "label": 0}, {"context": "w3", "choices": ["w"] * 3, "label": 0}],
         "row 2 has 3 choices"),
    ],
)  # fmt: skip
def test_choices_that_do_not_fit_are_refused(rows, said, tmp_path):
    with pytest.raises(InputError, match=said):
        choices_task(sentences(tmp_path / "a.jsonl", rows), CHOOSER, tokenizer())

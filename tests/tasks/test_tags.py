import numpy as np
import pytest
from transformers import BertForTokenClassification

from conftest import tiny_tokenizer, words
from secateur.core.errors import InputError
from secateur.tasks.tags import Entities, Tags, entities, tags_task
from secateur.tasks.task import score
from task_cases import bert, one_by_one, sentences

TEXTS = [words(2 + row % 5, row) for row in range(20)]
TAGGER = bert(BertForTokenClassification, num_labels=3)
NAMES = ["O", "B-a", "I-a", "B-b", "I-b"]


def test_words_are_judged_by_their_first_token(tmp_path):
    model = bert(BertForTokenClassification, num_labels=3)
    rows = [{"tokens": text.split(), "tags": [(row + at) % 3 for at in range(len(text.split()))]}
            for row, text in enumerate(TEXTS)]  # fmt: skip
    task = tags_task(sentences(tmp_path / "a.jsonl", rows), model, tiny_tokenizer(), batch=6)
    outputs = one_by_one(model, [" ".join(row["tokens"]) for row in rows])
    right = [int(out.argmax()) == tag for row, own in zip(rows, outputs, strict=True)
             for out, tag in zip(own[-len(row["tags"]):], row["tags"], strict=True)]  # fmt: skip
    assert task.parts(model)[:, 1].sum() == len(right) and score(task, model) == pytest.approx(np.mean(right))


def by_hand(tags):
    """Entities of tags by walking over them once more, in another way: by the positions at which one begins."""
    begins = [
        at
        for at, tag in enumerate(tags)
        if tag[0] == "B" or (tag[0] == "I" and (at == 0 or tags[at - 1] == "O" or tags[at - 1][2:] != tag[2:]))
    ]
    found = set()
    for at in begins:
        end = at + 1
        while end < len(tags) and tags[end] == f"I-{tags[at][2:]}":
            end += 1
        found.add((at, end, tags[at][2:]))
    return found


@pytest.mark.parametrize("seed", range(100))
def test_entities_are_runs_of_one_kind(seed):
    stream = np.random.default_rng(seed)
    tags = [NAMES[place] for place in stream.integers(0, 5, size=seed % 9)]
    assert entities(tags) == by_hand(tags)


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("S-x O S-x", {(0, 1, "x"), (2, 3, "x")}),
        ("B-x E-x", {(0, 2, "x")}),
        ("B-x I-x E-x E-x", {(0, 3, "x"), (3, 4, "x")}),
        ("B-x L-x U-y U-y", {(0, 2, "x"), (2, 3, "y"), (3, 4, "y")}),
        ("I-x S-x I-x", {(0, 1, "x"), (1, 2, "x"), (2, 3, "x")}),
        ("O O", set()),
    ],
)
def test_marks_of_single_and_last_words_are_known(tags, found):
    assert entities(tags.split()) == found


def test_entities_are_right_where_ends_and_kind_are(tmp_path):
    model = bert(BertForTokenClassification, num_labels=5)
    model.config.id2label = dict(enumerate(NAMES))
    model.config.label2id = {name: number for number, name in enumerate(NAMES)}
    rows = [{"tokens": text.split(), "tags": [NAMES[(row + 2 * at) % 5] for at in range(len(text.split()))]}
            for row, text in enumerate(TEXTS)]  # fmt: skip
    task = tags_task(sentences(tmp_path / "a.jsonl", rows), model, tiny_tokenizer(), batch=6)
    outputs = one_by_one(model, [" ".join(row["tokens"]) for row in rows])
    found = said = true = 0
    for row, own in zip(rows, outputs, strict=True):
        guess = by_hand([NAMES[int(out.argmax())] for out in own[-len(row["tags"]) :]])
        right = by_hand(row["tags"])
        found, said, true = found + len(guess & right), said + len(guess), true + len(right)
    assert isinstance(task, Entities) and task.metric == "entity f1" and true > 0
    assert score(task, model) == pytest.approx(2 * found / (said + true))
    assert Entities([]).value(np.zeros(2)) == 1.0


def test_tags_without_kinds_are_judged_word_by_word(tmp_path):
    path = sentences(tmp_path / "a.jsonl", [{"tokens": ["w3"], "tags": [0]}])
    assert type(tags_task(path, TAGGER, tiny_tokenizer())) is Tags


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"tokens": ["w3"], "tags": [0, 1]}, "1 words and 2 tags"),
        ({"tokens": [], "tags": []}, "0 words and 0 tags"),
        ({"tokens": "w3", "tags": [0]}, "no list of tokens"),
        ({"tokens": ["w3"], "tags": [7]}, "1: label '7' is not one of the model's 3"),
        ({"tokens": [" "], "tags": [0]}, "blank or no text"),
        ({"tokens": [["w3"]], "tags": [0]}, "blank or no text"),
        ({"text": "w3"}, "no list of tokens"),
    ],
)
def test_tags_that_do_not_fit_are_refused_by_their_row(row, said, tmp_path):
    with pytest.raises(InputError, match=said):
        tags_task(sentences(tmp_path / "a.jsonl", [row]), TAGGER, tiny_tokenizer())


def test_where_nothing_could_be_judged_it_is_said(tmp_path):
    path = sentences(tmp_path / "a.jsonl", [{"tokens": ["w3", "w4"], "tags": [0, 0]}])
    model = bert(BertForTokenClassification, num_labels=5)
    model.config.id2label, model.config.label2id = dict(enumerate(NAMES)), {name: n for n, name in enumerate(NAMES)}
    with pytest.raises(InputError, match="mark no entity"):
        tags_task(path, model, tiny_tokenizer())

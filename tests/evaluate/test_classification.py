import pytest
import torch

from conftest import task_model, tiny_tokenizer
from secateur.core.errors import InputError
from secateur.evaluate.classification import classification_task, read_examples
from secateur.evaluate.task import score

MODEL = task_model("BertForSequenceClassification")


def test_accuracy_is_that_of_texts_one_by_one(labelled):
    tokenizer = tiny_tokenizer()
    examples = read_examples(labelled)
    task = classification_task(examples, MODEL, tokenizer, batch=5)
    right = [
        MODEL(torch.tensor([tokenizer(one.text).input_ids])).logits.argmax().item() == int(one.label)
        for one in examples
    ]
    assert score(task, MODEL) == sum(right) / len(right) and 0 < sum(right) < len(right)
    assert len(task.batches) == 5 and task.parts(MODEL).shape == (24, 2)


def test_the_loss_is_summed_over_samples(labelled):
    task = classification_task(read_examples(labelled, 7), MODEL, tiny_tokenizer(), batch=7)
    apart = classification_task(read_examples(labelled, 7), MODEL, tiny_tokenizer(), batch=1)
    together = float(task.loss(MODEL, task.batches[0]))
    assert sum(float(apart.loss(MODEL, batch)) for batch in apart.batches) == pytest.approx(together, rel=1e-5)


def test_without_labels_the_model_agrees_with_itself(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "w3 w4"}\n\n{"text": "w5"}\n')
    task = classification_task(read_examples(path), MODEL, tiny_tokenizer())
    assert task.metric == "agreement" and score(task, MODEL) == 1.0


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.tsv", "w3\t1\nw4 w5\t0\n", [("w3", None, "1"), ("w4 w5", None, "0")]),
        ("a.tsv", "w3\tw4\tLABEL_1\n", [("w3", "w4", "LABEL_1")]),
        ("a.csv", 'sentence,label\n"w3, w4",0\n', [("w3, w4", None, "0")]),
        ("a.jsonl", '{"premise": "w3", "hypothesis": "w4", "label": 1}\n', [("w3", "w4", "1")]),
    ],
)
def test_files_of_every_kind_are_read(tmp_path, name, content, expected):
    (tmp_path / name).write_text(content)
    examples = read_examples(tmp_path / name)
    assert [tuple(one) for one in examples] == expected
    assert len(classification_task(examples, MODEL, tiny_tokenizer()).batches) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "w3", "should be a .tsv"),
        ("a.tsv", "", "are empty"),
        ("a.tsv", "a\tb\tc\td\n", "line 1 has 4 fields"),
        ("a.tsv", "a\t1\nb\n", "same fields"),
        ("a.csv", "words,label\nw3,1\n", "line 2 has no text"),
        ("a.jsonl", "nonsense\n", "line 1 is not JSON"),
    ],
)
def test_bad_files_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_examples(tmp_path / name)


def test_unknown_labels_and_missing_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_examples(tmp_path / "none.tsv")
    (tmp_path / "a.tsv").write_text("w3\tgood\n")
    with pytest.raises(InputError, match="'good' is not one of the model's 2: LABEL_0, LABEL_1"):
        classification_task(read_examples(tmp_path / "a.tsv"), MODEL, tiny_tokenizer())

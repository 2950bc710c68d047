import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from conftest import LLAMA, TASK_CONFIGS, task_model, tiny_tokenizer, words
from secateur.core.errors import InputError, NumericalError
from secateur.tasks.classification import (
    Classification,
    Example,
    class_number,
    classification_task,
    read_examples,
)
from secateur.tasks.task import score

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
        ("a.xml", "w3", "should be a .tsv"),
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


def made(**settings):
    config = MODEL.config.__class__(**{**TASK_CONFIGS["BertForSequenceClassification"], **settings})
    return type(MODEL)(config).eval()


@pytest.mark.parametrize(
    "settings",
    [
        {"num_labels": 1},
        {"problem_type": "regression", "num_labels": 3},
        {"problem_type": "multi_label_classification", "num_labels": 3},
    ],
)
@pytest.mark.parametrize("labels", [True, False])
def test_a_head_that_accuracy_says_nothing_of_is_refused(settings, labels):
    examples = [Example("w3 w4", None, "0" if labels else None)]
    with pytest.raises(InputError, match=rf"num_labels {settings['num_labels']} and problem_type"):
        classification_task(examples, made(**settings), tiny_tokenizer())


@pytest.mark.parametrize(
    "labels",
    [torch.tensor([0.0, 1.0, 0.0]), torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.long), torch.tensor([0, 1, 2])],
)
def test_labels_that_are_not_one_class_each_are_refused_from_python_too(labels):
    task = Classification([{"input_ids": torch.full((3, 4), 5), "labels": labels}])
    for call in (lambda: task.parts(MODEL), lambda: task.loss(MODEL, task.batches[0])):
        with pytest.raises(InputError, match="not one class each|from 0 to 2, the model has 2 classes"):
            call()


def test_outputs_that_are_not_numbers_are_no_accuracy():
    broken = made()
    broken.classifier.bias.data[:] = float("nan")
    task = Classification([{"input_ids": torch.full((3, 4), 5), "labels": torch.zeros(3, dtype=torch.long)}])
    with pytest.raises(NumericalError, match="NaN"):
        task.parts(broken)


@pytest.mark.parametrize(("label", "expected"), [("bad", 0), ("good", 1), ("0", 1), ("1", 1), ("2", 2), ("mine", 2)])
def test_labels_are_names_of_the_config_before_they_are_numbers(label, expected):
    config = made(num_labels=3).config
    config.label2id = {"bad": 0, "good": 1, "0": 1, "mine": "2", "far": 7, "low": -1}
    assert class_number(label, config) == expected


@pytest.mark.parametrize("label", ["3", "-1", "0.5", "1.0", "", " ", "01", "²", "Good", "far", "low", "9" * 5000, None])
def test_labels_outside_the_models_classes_are_named(label):
    config = made(num_labels=3).config
    config.label2id = {"bad": 0, "good": 1, "mine": 2, "far": 7, "low": -1}
    with pytest.raises(InputError, match="is not one of the model's 3: bad"):
        class_number(label, config)


def test_texts_longer_than_the_positions_and_strange_ids_are_named():
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 10**30
    examples = [Example(words(80), None, "0")]
    with pytest.raises(InputError, match="80 tokens are longer than the 64 positions"):
        classification_task(examples, MODEL, tokenizer)
    classification_task(examples, MODEL, tokenizer, length=64)
    with pytest.raises(InputError, match="token id 90 is outside the model's vocabulary of 50"):
        classification_task([Example("w90", None, "0")], made(vocab_size=50), tokenizer)


def test_a_model_without_padding_takes_one_text_at_a_time(labelled):
    model = LlamaForSequenceClassification(LlamaConfig(**LLAMA | dict(pad_token_id=None))).eval()
    examples = read_examples(labelled, 6)
    task = classification_task(examples, model, tiny_tokenizer(), batch=4)
    assert [len(batch["labels"]) for batch in task.batches] == [1] * 6 and task.parts(model).shape == (6, 2)

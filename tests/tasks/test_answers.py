import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from scipy.stats import pearsonr
from sklearn.metrics import f1_score
from transformers import BertForTokenClassification, BertModel

from conftest import tiny_tokenizer, words
from secateur.adapt.structure import describe
from secateur.core.errors import InputError, NumericalError
from secateur.core.seed import generator
from secateur.evaluate.agreement import verify_folders
from secateur.heads.prune import prune_heads
from secateur.heads.scoring import Scoring, score_heads
from secateur.heads.task_model import open_task_model
from secateur.score.gates import gate_gradients, gated
from secateur.tasks.answers import (
    Embedding,
    Regression,
    SeveralLabels,
    embedding_task,
    labels_task,
    pooled,
    regression_task,
)
from secateur.tasks.classification import Example, read_examples
from secateur.tasks.task import score
from task_cases import bert, one_by_one, saved_model, sentences

TEXTS = [words(3 + row % 5, row) for row in range(20)]


def classifier(**settings):
    return bert(transformers.BertForSequenceClassification, **settings)


def test_correlation_is_pearsons_of_texts_one_by_one():
    model = classifier(num_labels=1)
    labels = torch.randn(20, generator=torch.Generator().manual_seed(1)).tolist()
    examples = [Example(text, None, str(label)) for text, label in zip(TEXTS, labels, strict=True)]
    task = regression_task(examples, model, tiny_tokenizer(), batch=7)
    outputs = [float(out) for out in one_by_one(model, TEXTS)]
    assert score(task, model) == pytest.approx(pearsonr(outputs, labels).statistic, abs=1e-4)
    loss = sum(float(task.loss(model, batch)) for batch in task.batches)
    assert loss == pytest.approx(np.square(np.subtract(outputs, labels)).sum(), rel=1e-5)


@pytest.mark.parametrize("seed", range(50))
def test_correlation_from_sums_is_the_correlation(seed):
    stream = np.random.default_rng(seed)
    x, y = stream.normal(3, 1, size=(2, 2 + seed % 7))
    parts = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)
    assert Regression([]).value(parts.sum(0)) == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-6)
    same = np.full_like(x, x[0])
    parts = np.stack([np.ones_like(x), same, y, same * same, y * y, same * y], axis=1)
    assert Regression([]).value(parts.sum(0)) == 0.0


def test_f1_is_that_of_all_labels_together(tmp_path):
    model = classifier(num_labels=4, problem_type="multi_label_classification")
    labels = [[number for number in range(4) if (row >> number) & 1] for row in range(16)]
    rows = [{"text": text, "label": own} for text, own in zip(TEXTS, labels, strict=False)]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = labels_task(read_examples(path), model, tiny_tokenizer(), batch=5)
    said = np.stack([(out > 0).numpy() for out in one_by_one(model, TEXTS[:16])])
    true = np.array([[number in own for number in range(4)] for own in labels])
    assert score(task, model) == pytest.approx(f1_score(true, said, average="micro"))
    assert SeveralLabels([]).value(np.zeros(2)) == 1.0


def test_an_embedding_is_the_mean_of_what_is_no_padding_or_the_first_token():
    model = bert(BertModel)
    task = embedding_task([Example(text, None, None) for text in TEXTS], model, tiny_tokenizer(), batch=6)
    assert score(task, model) == pytest.approx(1.0, abs=1e-5)
    for first in (False, True):
        found = {}
        for batch in task.batches:
            for ids, mask, own in zip(
                batch["input_ids"], batch["attention_mask"], pooled(model, batch, first=first), strict=True
            ):
                found[tuple(ids[mask.bool()].tolist())] = own
        for text, hidden in zip(TEXTS, one_by_one(model, TEXTS), strict=True):
            expected = hidden[0] if first else hidden.mean(dim=0)
            own = found[tuple(tiny_tokenizer()(text).input_ids)]
            assert torch.allclose(own, expected / expected.norm(), atol=1e-5)


def test_the_slope_along_random_directions_tells_how_far_an_embedding_moves():
    model = bert(BertModel)
    task = embedding_task([Example(TEXTS[0], None, None)], model, tiny_tokenizer())
    (batch,) = task.batches
    found = describe(model).attentions
    slopes = gate_gradients(model, found, task.batches, task.loss, level="example")
    assert float(task.loss(model, batch)) == pytest.approx(0.0, abs=1e-6)  # nothing is lost yet
    step = 1e-3
    for place, head in ((0, 1), (2, 3)):
        gates = [torch.ones(one.heads) for one in found]
        gates[place][head] += step
        with gated(found, gates):
            moved = (pooled(model, batch) - batch["targets"]) / step
            lost = float(task.loss(model, batch))
        signs = torch.randint(2, moved.shape, generator=generator(0, "directions", *moved.shape)) * 2.0 - 1.0
        assert float(slopes[place][head]) == pytest.approx(abs(float((moved * signs).sum())), rel=2e-2)
        assert 0 <= lost < 1e-3


@pytest.mark.parametrize("kind", ["embed", "regression", "labels", "tags", "answer", "choose"])
def test_heads_are_scored_and_removed_for_every_kind_of_answer(kind, tmp_path):
    texts = tmp_path / "texts.jsonl"
    if kind == "embed":
        model, rows = bert(BertModel), [{"text": text} for text in TEXTS]
    elif kind == "regression":
        model, rows = classifier(num_labels=1), [{"text": text, "label": len(text)} for text in TEXTS]
    elif kind == "labels":
        model = classifier(num_labels=3, problem_type="multi_label_classification")
        rows = [{"text": text, "label": [row % 3]} for row, text in enumerate(TEXTS)]
    elif kind == "answer":
        model = bert(transformers.BertForQuestionAnswering)
        rows = [
            {"question": "w3 w4", "context": text, "answers": {"text": [text[:2]], "answer_start": [0]}}
            for text in TEXTS
        ]
    elif kind == "choose":
        model = bert(transformers.BertForMultipleChoice)
        rows = [{"context": "w5", "choices": [text, "w6 w7", "w8"], "label": 2} for text in TEXTS]
    else:
        model = bert(BertForTokenClassification, num_labels=3)
        rows = [{"tokens": text.split(), "tags": [1] * len(text.split())} for text in TEXTS]
    sentences(texts, rows)
    task_model = open_task_model(saved_model(model, tmp_path / "dense"))
    task = task_model.read(str(texts))
    scores = score_heads(task_model, task, Scoring(normalise=False))
    assert all(float(own.min()) > 0 for own in scores)
    result = prune_heads(task_model, (str(texts), None), tmp_path / "out", 0.25)
    metrics = {"embed": "cosine", "regression": "pearson", "labels": "f1", "tags": "accuracy"}
    metrics |= {"answer": "f1", "choose": "accuracy"}
    assert result["metric"] == metrics[kind] and result["heads"] == 9 and result["heads_before"] == 12
    again = open_task_model(tmp_path / "out")
    assert [one.heads for one in again.attentions] == list(result["heads_by_attention"].values())
    assert verify_folders(str(tmp_path / "dense"), str(tmp_path / "out"), tokens=8).logits < 1e-4
    if kind == "embed":  # cosines are against what the dense model gave
        assert 0 < result["after"] < result["before"] == pytest.approx(1.0, abs=1e-5)


def test_a_folder_that_pools_by_the_first_token_is_read_so(tmp_path):
    folder = saved_model(bert(BertModel), tmp_path / "dense")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    (tmp_path / "a.txt").write_text("\n".join(TEXTS))
    task = open_task_model(folder).read(str(tmp_path / "a.txt"))
    assert isinstance(task, Embedding) and task.first and len(task.parts(open_task_model(folder).model)) == 20


@pytest.mark.parametrize("label", ["many", None, "nan", "inf"])
def test_labels_that_are_no_numbers_are_refused(label):
    with pytest.raises(InputError, match="is no number"):
        regression_task([Example("w3", None, label)], classifier(num_labels=1), tiny_tokenizer())


def test_two_outputs_are_no_regression_and_unknown_labels_and_nan_are_refused():
    with pytest.raises(InputError, match="one output"):
        regression_task([Example("w3", None, "1")], classifier(num_labels=2), tiny_tokenizer())
    model = classifier(num_labels=2)
    for label in (None, "0|5"):
        with pytest.raises(InputError, match="label"):
            labels_task([Example("w3", None, label)], model, tiny_tokenizer())
    task = labels_task([Example("w3", None, "1")], model, tiny_tokenizer())
    broken = classifier(num_labels=2)
    broken.classifier.bias.fill_(float("nan"))
    with pytest.raises(NumericalError, match="NaN"):
        score(replace(task), broken)

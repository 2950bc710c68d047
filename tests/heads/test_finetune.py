import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from conftest import words
from secateur.core.errors import InputError, ModelError
from secateur.core.files import read_document, write_document
from secateur.heads.finetune import finetune
from secateur.heads.task_model import open_task_model
from secateur.tasks.task import score
from secateur.train.classifier import Finetuning

PLAN = Finetuning(epochs=1.0, batch=8, length=16)


@pytest.fixture
def encoder(saved_task, tmp_path):
    """A bare encoder, as its authors would publish it."""
    from transformers import BertModel

    folder = tmp_path / "encoder"
    shutil.copytree(saved_task("BertForSequenceClassification"), folder)
    model = BertModel.from_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def test_a_bare_encoder_becomes_a_classifier_with_names(encoder, tmp_path):
    data = tmp_path / "data.tsv"
    data.write_text("w3 w4\tgood\nw30\tbad\nw5 w3\tgood\n" * 4)
    found = finetune(encoder, data, tmp_path / "out", PLAN, test=data)
    assert found["classes"] == ["bad", "good"] and found["examples"] == 12 and found["loss"] > 0
    task_model = open_task_model(tmp_path / "out")
    assert score(task_model.read(str(data)), task_model.model) == found["accuracy"]
    config = read_document(tmp_path / "out" / "config.json")
    assert config["label2id"] == {"bad": 0, "good": 1} and config["problem_type"] == "single_label_classification"
    kept = read_document(tmp_path / "out" / "finetune.json")
    assert (kept["examples"], kept["test_examples"], kept["accuracy"]) == (12, 12, found["accuracy"])


def test_what_cannot_be_trained_is_refused(encoder, tmp_path):
    data = tmp_path / "data.tsv"
    for content in ("w3\n", "w3\tw4\t1\n"):
        data.write_text(content)
        with pytest.raises(InputError, match="one text and one label"):
            finetune(encoder, data, tmp_path / "out", PLAN)
    data.write_text("w3\t1\nw4\t0\n")
    with pytest.raises(InputError, match="cannot be read"):
        finetune(encoder, data, tmp_path / "out", PLAN, test=tmp_path / "none.tsv")
    config = read_document(encoder / "config.json")
    write_document(encoder / "config.json", config | {"hidden_size": 31})
    with pytest.raises(ModelError, match="cannot be made a classifier"):
        finetune(encoder, data, tmp_path / "out", PLAN)
    for file in encoder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InputError, match="no tokenizer"):
        finetune(encoder, data, tmp_path / "out", PLAN)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("w3\t1\nw4\t1\n", "one class, '1'"),
        ("w3\t0.5\nw4\t1.25\n", "'0.5', a number with a fraction"),
        ("w3\t-3.7e-2\nw4\t1\n", "a number with a fraction"),
        ("w3\t\nw4\t1\n", "empty label"),
    ],
)
def test_labels_that_are_no_classes_are_refused(encoder, tmp_path, content, message):
    (tmp_path / "data.tsv").write_text(content)
    with pytest.raises(InputError, match=message):
        finetune(encoder, tmp_path / "data.tsv", tmp_path / "out", PLAN)
    assert not (tmp_path / "out").exists()


def test_class_names_may_look_like_numbers_without_a_fraction(encoder, tmp_path):
    (tmp_path / "data.tsv").write_text("w3\t1.0\nw4\t0.0\n")
    assert finetune(encoder, tmp_path / "data.tsv", tmp_path / "out", PLAN)["classes"] == ["0.0", "1.0"]


@pytest.mark.parametrize(
    ("content", "message"),
    [("w3\n", "one text and one label"), ("w3\tw4\t1\n", "one text and one label"), ("w3\t2\n", "label '2', which")],
)
def test_a_test_file_that_judges_nothing_is_refused_before_training(encoder, tmp_path, content, message, monkeypatch):
    monkeypatch.setattr("secateur.heads.finetune.finetune_", None)
    (tmp_path / "data.tsv").write_text("w3\t1\nw4\t0\n")
    (tmp_path / "test.tsv").write_text(content)
    with pytest.raises(InputError, match=message):
        finetune(encoder, tmp_path / "data.tsv", tmp_path / "out", PLAN, test=tmp_path / "test.tsv")


def test_a_problem_type_of_another_head_does_not_stay(encoder, tmp_path):
    config = read_document(encoder / "config.json")
    one = {"problem_type": "regression", "id2label": {"0": "score"}, "label2id": {"score": 0}}
    write_document(encoder / "config.json", config | one)
    (tmp_path / "data.tsv").write_text("w3\t1\nw4\t0\nw5\t2\n")
    finetune(encoder, tmp_path / "data.tsv", tmp_path / "out", PLAN)
    assert open_task_model(tmp_path / "out").model.config.problem_type == "single_label_classification"


def test_texts_are_cut_at_the_positions_unless_a_length_is_set(encoder, tmp_path):
    (tmp_path / "data.tsv").write_text(f"{words(200)}\t1\nw4\t0\n")
    plan = Finetuning(epochs=1.0, batch=2)
    finetune(encoder, tmp_path / "data.tsv", tmp_path / "out", plan, test=tmp_path / "data.tsv")
    with pytest.raises(InputError, match="100 tokens are longer than the 64 positions"):
        finetune(encoder, tmp_path / "data.tsv", tmp_path / "long", replace(plan, length=100))
    assert not (tmp_path / "long").exists()


KILLED = (
    "import os, signal, sys; import secateur.train.classifier as train; from secateur.heads.finetune import finetune\n"
    "train._EVERY = 2\n"
    "def progress(done, total):\n"
    "    if done == 5: os.kill(os.getpid(), signal.SIGKILL)\n"
    "plan = train.Finetuning(epochs=2.0, batch=8, length=16)\n"
    "finetune(sys.argv[1], sys.argv[2], sys.argv[3], plan, progress=progress)"
)


def test_a_killed_run_resumes_to_the_same_bits(encoder, labelled, tmp_path):
    plan = replace(PLAN, epochs=2.0)
    whole = finetune(encoder, labelled, tmp_path / "whole", plan)
    script = [sys.executable, "-c", KILLED, str(encoder), str(labelled), str(tmp_path / "out")]
    died = subprocess.run(script, capture_output=True, env={**os.environ})
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    with pytest.raises(InputError, match="unfinished run"):
        finetune(encoder, labelled, tmp_path / "out", plan)
    with pytest.raises(InputError, match="another rate"):
        finetune(encoder, labelled, tmp_path / "out", replace(plan, rate=1.0), resume=True)
    seen = []
    found = finetune(
        encoder, labelled, tmp_path / "out", plan, resume=True, progress=lambda done, total: seen.append(done)
    )
    assert seen == [4, 5, 6] and found == whole
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "out"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not (tmp_path / "out.partial").exists()

import shutil

import pytest
import transformers

from conftest import TASK_CONFIGS, words
from secateur.core.errors import InputError, ModelError
from secateur.core.files import read_document, write_document
from secateur.heads.task_model import DataOptions, open_task_model
from secateur.tasks.task import Task, count_samples


def test_the_task_is_what_the_class_does(saved_task, saved, labelled, text, tmp_path):
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("w3 w4\tw5\n")
    cases = {
        "classify": (saved_task("BertForSequenceClassification"), labelled),
        "lm": (saved("llama"), text),
        "translate": (saved_task("MarianMTModel"), pairs),
    }
    for name, (folder, data) in cases.items():
        task_model = open_task_model(folder)
        assert task_model.task_name == name and open_task_model(folder, name).task_name == name
        assert isinstance(task_model.read(str(data), DataOptions(samples=2, length=16)), Task)


def test_layouts_say_what_goes_together(saved):
    groups, heads = open_task_model(saved("llama")), open_task_model(saved("llama"), unit="heads")
    assert [(one.heads, one.shared, one.unit) for one in groups.layouts] == [(4, 2, "kv_groups")] * 2
    assert heads.layouts[0].unit == "heads" and [len(kept) for kept in heads.keep] == [4, 4]


def test_kinds_are_chosen_or_refused(saved_task):
    task_model = open_task_model(saved_task("MarianMTModel"))
    assert task_model.of_kinds(["cross"]) == [False] * 5 + [True] * 3 and all(task_model.of_kinds([]))
    with pytest.raises(InputError, match=r"'wheels' is not in this model: it has \['cross', 'decoder', 'encoder'\]"):
        task_model.of_kinds(["wheels"])


def test_what_cannot_be_judged_is_refused(saved_task, tmp_path):
    folder = saved_task("BertForSequenceClassification")
    with pytest.raises(InputError, match="has no head for task lm"):
        open_task_model(folder, "lm")
    with pytest.raises(InputError, match="unknown"):
        open_task_model(folder, "sing")
    with pytest.raises(InputError, match="unknown"):
        open_task_model(folder, unit="wheels")
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    config = read_document(bare / "config.json")
    stock = transformers.BertForNextSentencePrediction
    stock(stock.config_class(**TASK_CONFIGS["BertForSequenceClassification"])).save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="fine-tune it first"):
        open_task_model(tmp_path / "other")
    write_document(bare / "config.json", config | {"architectures": ["NoSuchModel"]})
    with pytest.raises(ModelError, match="NoSuchModel"):
        open_task_model(bare)
    write_document(bare / "config.json", config)
    for file in bare.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InputError, match="no tokenizer"):
        open_task_model(bare)
    with pytest.raises(InputError, match="samples must be at least 1"):
        DataOptions(samples=0)


@pytest.mark.parametrize("settings", [{"num_labels": 1}, {"problem_type": "multi_label_classification"}])
def test_regression_and_many_labels_are_refused_on_pictures(settings, tmp_path):
    config = transformers.ViTConfig(**TASK_CONFIGS["ViTForImageClassification"], **settings)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="problem_type"):
        open_task_model(tmp_path).read(str(tmp_path))


def test_samples_cut_what_is_scored_on_and_never_what_is_judged_on(saved_task, labelled):
    task_model = open_task_model(saved_task("BertForSequenceClassification"))
    for plan, counts in (
        (DataOptions(samples=5), (5, 24)),
        (None, (24, 24)),
        (DataOptions(samples=5, batch=2), (5, 24)),
    ):
        scored, judged = task_model.read_both((str(labelled), str(labelled)), plan)
        assert (count_samples(scored), count_samples(judged)) == counts
    scored, judged = task_model.read_both((str(labelled), None), DataOptions(samples=5))
    assert judged is scored and count_samples(scored) == 5


@pytest.mark.parametrize("name", ["BartForConditionalGeneration", "MarianMTModel", "T5ForConditionalGeneration"])
def test_translations_are_no_longer_than_the_positions(name, saved_task, tmp_path):
    task_model = open_task_model(saved_task(name))
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text(f"{words(100)}\t{words(100, 1)}\n")
    task = task_model.read(str(pairs))  # cut at 64 positions, or T5's 128
    assert task.new == (128 if name.startswith("T5") else 64)
    assert len(task.translate(task_model.model)) == 1
    if not name.startswith("T5"):
        with pytest.raises(InputError, match="65 tokens are longer than the 64 positions"):
            task_model.read(str(pairs), DataOptions(length=65))


def test_texts_of_a_small_vocabulary_and_few_positions_are_read_or_refused(saved, text):
    task_model = open_task_model(saved("gpt2"))
    assert task_model.read(str(text)).batches[0]["input_ids"].shape == (1, 64)  # not 512
    with pytest.raises(InputError, match="65 tokens are longer than the 64 positions"):
        task_model.read(str(text), DataOptions(length=65))

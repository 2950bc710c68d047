import shutil

import pytest

from secateur.core.errors import InputError, ModelError
from secateur.core.files import read_document, write_document
from secateur.evaluate.task import Task
from secateur.heads.subject import Reading, open_subject


def test_the_task_is_what_the_class_does(saved_task, saved, labelled, text, tmp_path):
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("w3 w4\tw5\n")
    cases = {
        "classify": (saved_task("BertForSequenceClassification"), labelled),
        "lm": (saved("llama"), text),
        "translate": (saved_task("MarianMTModel"), pairs),
    }
    for name, (folder, data) in cases.items():
        subject = open_subject(folder)
        assert subject.task_name == name and open_subject(folder, name).task_name == name
        assert isinstance(subject.read(str(data), Reading(samples=2, length=16)), Task)


def test_layouts_say_what_goes_together(saved):
    groups, heads = open_subject(saved("llama")), open_subject(saved("llama"), unit="heads")
    assert [(one.heads, one.shared, one.unit) for one in groups.layouts] == [(4, 2, "kv_groups")] * 2
    assert heads.layouts[0].unit == "heads" and [len(keep) for keep in heads.live] == [4, 4]


def test_kinds_are_chosen_or_refused(saved_task):
    subject = open_subject(saved_task("MarianMTModel"))
    assert subject.of_kinds(["cross"]) == [False] * 5 + [True] * 3 and all(subject.of_kinds([]))
    with pytest.raises(InputError, match=r"'wheels' is not in this model: it has \['cross', 'decoder', 'encoder'\]"):
        subject.of_kinds(["wheels"])


def test_what_cannot_be_judged_is_refused(saved_task, tmp_path):
    folder = saved_task("BertForSequenceClassification")
    with pytest.raises(InputError, match="has no head for task lm"):
        open_subject(folder, "lm")
    with pytest.raises(InputError, match="unknown"):
        open_subject(folder, "sing")
    with pytest.raises(InputError, match="unknown"):
        open_subject(folder, unit="wheels")
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    config = read_document(bare / "config.json")
    write_document(bare / "config.json", config | {"architectures": ["BertModel"]})
    with pytest.raises(InputError, match="fine-tune it first"):
        open_subject(bare)
    write_document(bare / "config.json", config | {"architectures": ["NoSuchModel"]})
    with pytest.raises(ModelError, match="NoSuchModel"):
        open_subject(bare)
    write_document(bare / "config.json", config)
    for file in bare.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InputError, match="no tokenizer"):
        open_subject(bare)
    with pytest.raises(InputError, match="samples must be at least 1"):
        Reading(samples=0)

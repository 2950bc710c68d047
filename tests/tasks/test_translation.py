import sys

import numpy as np
import pytest
import sacrebleu
import torch

from conftest import task_model, tiny_tokenizer, words
from secateur.core.errors import InputError
from secateur.tasks.task import score
from secateur.tasks.translation import Translation, read_pairs, translation_task

PAIRS = [(words(4 + row, row), words(5 + row % 3, row + 50)) for row in range(6)]


class Parrot(torch.nn.Module):
    """Answers with what it was told to."""

    def __init__(self, ids):
        super().__init__()
        self.ids = ids

    def generate(self, input_ids, attention_mask, **settings):
        return self.ids


def told(texts, references):
    batch = {"input_ids": torch.zeros(len(texts), 1), "attention_mask": torch.ones(len(texts), 1)}
    return Translation([batch], references, lambda ids: texts)


def test_bleu_is_sacrebleus_over_the_corpus():
    texts = ["the cat sat on the mat today", "a dog runs fast", "birds fly"]
    references = ["the cat sat on a mat today", "a dog runs very fast", "birds fly south"]
    task = told(texts, references)
    expected = sacrebleu.BLEU().corpus_score(texts, [references]).score
    assert score(task, Parrot(None)) == pytest.approx(expected)
    parts = task.parts(Parrot(None))
    assert task.value(np.stack([parts.sum(0), parts[:2].sum(0)])).shape == (2,)


def test_loss_and_translations_stand_in_the_order_of_the_references():
    model, tokenizer = task_model("BartForConditionalGeneration"), tiny_tokenizer()
    task = translation_task(PAIRS, tokenizer, batch=4, length=12)
    assert len(task.translate(model)) == len(task.references) == 6 and set(task.references) == {b for _, b in PAIRS}
    apart = [translation_task([pair], tokenizer, length=12) for pair in PAIRS]
    expected = sum(float(one.loss(model, one.batches[0])) for one in apart)
    assert sum(float(task.loss(model, batch)) for batch in task.batches) == pytest.approx(expected, rel=1e-4)


def test_pairs_are_read_or_refused(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("one\tum\ntwo\tdois\n")
    assert read_pairs(path) == [("one", "um"), ("two", "dois")] and len(read_pairs(path, 1)) == 1
    path.write_text("one\tum\nlost\n")
    with pytest.raises(InputError, match="line 2 should be source TAB target"):
        read_pairs(path)
    path.write_text("")
    with pytest.raises(InputError, match="are empty"):
        read_pairs(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_pairs(tmp_path / "none.tsv")


def test_bleu_needs_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(InputError, match=r"secateur\[translate\]"):
        told(["a"], ["a"]).parts(Parrot(None))

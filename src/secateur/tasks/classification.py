"""Accuracy of a classifier on labelled texts, read from tsv, csv or jsonl, or on pictures."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from secateur.adapt.positions import check_ids
from secateur.calibrate.rows import ROW_FILES, TEXT_FILES, Row, file_kind, read_lines, read_rows
from secateur.core.errors import InputError, NumericalError, first_line
from secateur.score.gates import Batch
from secateur.storage.pictures import Pictures, load_preparation, read_prepared
from secateur.storage.source import Source
from secateur.tasks.task import Share, pad_batches, segments

__all__ = [
    "Classification",
    "Example",
    "check_classes",
    "check_guessed",
    "class_number",
    "classification_task",
    "picture_task",
    "read_examples",
    "text_batches",
]

_TEXT, _PAIR = ("text", "sentence", "question", "premise"), ("text_pair", "sentence2", "hypothesis")


class Example(NamedTuple):
    """A text, what it is paired with, and its label as the file writes it; labels may be missing."""

    text: str
    pair: str | None
    label: str | None


class Classification(Share):
    """Share of samples whose most likely class is the label's: one class of two or more a sample."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy, summed over samples."""
        return nn.functional.cross_entropy(_logits(model, batch), batch["labels"], reduction="sum")

    @torch.no_grad()
    def parts(self, model: nn.Module) -> Float[np.ndarray, "samples 2"]:
        """Correct or not, and one."""
        correct = [_logits(model, batch).argmax(-1) == batch["labels"] for batch in self.batches]
        right = torch.cat(correct).double().numpy()
        return np.stack([right, np.ones_like(right)], axis=1)  # [samples, 2]


def _logits(model: nn.Module, batch: Batch) -> Tensor:
    """The logits `[batch, classes]`. Raises InputError on labels that are not one class each, NumericalError on NaN."""
    # [batch, classes]
    logits: Tensor = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    labels, classes = batch["labels"], logits.shape[-1]
    if classes < 2 or labels.is_floating_point() or labels.shape != logits.shape[:-1]:
        raise InputError(
            f"labels {list(labels.shape)} of {labels.dtype} for {classes} outputs are not one class each: regression "
            "and multi-label models are not judged here"
        )
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise InputError(f"labels run from {int(labels.min())} to {int(labels.max())}, the model has {classes} classes")
    if torch.isnan(logits).any():
        raise NumericalError("the model's outputs are NaN: check its weights")
    return logits


def check_classes(config: Any) -> None:
    """Raise InputError for a head of one output or of many labels a sample: accuracy says nothing of it."""
    kind, labels = config.problem_type, config.num_labels
    if labels < 2 or kind in ("regression", "multi_label_classification"):
        raise InputError(
            f"the model has num_labels {labels} and problem_type {kind!r}: heads are judged by accuracy, on one class "
            "of two or more a sample; use a single-label classifier, as regression and multi-label are not supported"
        )


def classification_task(
    examples: Sequence[Example], model: Any, tokenizer: PreTrainedTokenizerBase, *, batch: int = 32, length: int = 256
) -> Classification:
    """Batches of like length; texts longer than `length` tokens (or the tokenizer's limit) are cut.

    Labels are the config's names or numbers. Where the file has none, the model's own
    answers stand for them, and the score is agreement with the model as it is. Raises
    InputError on a label the model does not know, a model that is no single-label
    classifier, and ids or lengths it cannot read. A model without a padding token takes
    one text at a time.
    """
    check_classes(model.config)
    batches: list[dict[str, Tensor]] = []
    for chosen, made in text_batches(examples, model, tokenizer, batch=batch, length=length):
        if examples[0].label is not None:
            made["labels"] = torch.tensor([class_number(examples[row].label, model.config) for row in chosen])
        else:
            with torch.no_grad():
                made["labels"] = model(**made).logits.argmax(-1)
        batches.append(made)
    return Classification(batches, "accuracy" if examples[0].label is not None else "agreement")


def text_batches(
    examples: Sequence[Example], model: Any, tokenizer: PreTrainedTokenizerBase, *, batch: int, length: int
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Texts in batches of like length: which of them, and what the model reads. Raises InputError on ids it cannot."""
    if model.config.pad_token_id is None:  # a decoder with a class head finds the last token by its padding
        batch = 1
    rows = tokenizer(
        [example.text for example in examples],
        [example.pair for example in examples] if examples[0].pair is not None else None,
        truncation=True,
        max_length=min(length, tokenizer.model_max_length),
        verbose=False,
    )
    for chosen, ids, mask in pad_batches(rows["input_ids"], batch, model.config.pad_token_id or 0):
        check_ids(ids, model.config, "labelled texts")
        made = {"input_ids": ids, "attention_mask": mask}
        if examples[0].pair is not None:
            made |= segments(rows, chosen, mask)
        yield chosen, made


def picture_task(
    images: str | Path, model: Any, source: Source, *, limit: int | None = None, batch: int = 32
) -> Classification:
    """Batches of the pictures of a folder or .zip, as the image processor of the model's folder prepares them.

    Where folders tell no class, the model's own answers stand for them, and the score is agreement with the model as
    it is. Raises InputError on pictures that cannot be read, ModelError where the folder has no image processor.
    """
    check_classes(model.config)
    known = {str(name): number for name, number in (model.config.label2id or {}).items() if type(number) is int}
    pictures = read_prepared(images, load_preparation(source), limit=limit, known=known)
    check_guessed(pictures, model.config.num_labels)
    try:
        with torch.no_grad():
            model(pixel_values=pictures.pixels[:1].to(model.dtype))
    except (ValueError, RuntimeError) as error:
        shape = [*pictures.pixels.shape[1:]]
        raise InputError(
            f"pictures are prepared to {shape}, and the model fails on them: {first_line(error)}"
        ) from error
    batches: list[dict[str, Tensor]] = []
    for start in range(0, len(pictures.pixels), batch):
        made = {"pixel_values": pictures.pixels[start : start + batch]}
        if pictures.classes is not None:
            made["labels"] = pictures.classes[start : start + batch]
        else:
            with torch.no_grad():
                made["labels"] = model(**made).logits.argmax(-1)
        batches.append(made)
    return Classification(batches, "agreement" if pictures.classes is None else "accuracy")


def check_guessed(pictures: Pictures, classes: int) -> None:
    """Raise InputError where folders' names were put in order to tell classes, and there are not as many as classes."""
    if pictures.guessed not in (0, classes):
        raise InputError(
            f"pictures lie in {pictures.guessed} folders whose names are no classes of the model, which has {classes}: "
            "name folders by the numbers of their classes"
        )


def class_number(label: str | None, config: Any) -> int:
    """The class of a label as a file writes it: a name of the config's, or a number. Raises InputError on any other."""
    known: Mapping[str, int] = config.label2id or {}
    number = int(known[label]) if label is not None and label in known else _whole(label or "")
    if number is None or not 0 <= number < config.num_labels:
        names = ", ".join(sorted(known)[:20])
        raise InputError(f"label {label!r} is not one of the model's {config.num_labels}: {names}")
    return number


def _whole(label: str) -> int | None:
    plain = label.isascii() and label.isdigit() and len(label) < 10
    return int(label) if plain and str(int(label)) == label else None  # 007 is a name and no number


def read_examples(path: Path, limit: int | None = None) -> list[Example]:
    """Texts and labels: .tsv of sentence TAB label, .csv and .jsonl with text, text_pair and label, or .txt lines.

    A label that is a list is joined with `|` between.

    Raises InputError naming the line that cannot be used.
    """
    kind = file_kind(path)
    if kind == ".tsv":
        examples = [_plain(where, line.split("\t")) for where, line in read_lines(path)[:limit]]
    elif kind in TEXT_FILES:
        examples = [Example(line, None, None) for _, line in read_lines(path)[:limit]]
    elif kind in ROW_FILES:
        examples = [_named(row) for row in read_rows(path)[:limit]]
    else:
        raise InputError(f"labelled texts {str(path)!r} should be a .tsv, {', '.join((*ROW_FILES, *TEXT_FILES))} file")
    if not examples:
        raise InputError(f"labelled texts {str(path)!r} are empty")
    whole = {(example.pair is None, example.label is None) for example in examples}
    if len(whole) > 1:
        raise InputError(f"{path}: every line should have the same fields, some lack a label or a second text")
    return examples


def _plain(where: str, fields: list[str]) -> Example:
    if len(fields) not in (1, 2, 3):
        raise InputError(f"{where} has {len(fields)} fields: write sentence TAB label")
    text, *rest = fields
    return Example(text, rest[0] if len(rest) == 2 else None, rest[-1] if rest else None)


def _named(row: Row) -> Example:
    fields = row.fields
    text = next((fields[name] for name in _TEXT if fields.get(name)), None)
    if not isinstance(text, str):
        raise InputError(f"{row.where} has no text: name its fields text, text_pair and label")
    pair = next((fields[name] for name in _PAIR if fields.get(name)), None)
    if pair is not None and not isinstance(pair, str):
        raise InputError(f"{row.where}: the second text should be text, found a {type(pair).__name__}")
    label = fields.get("label")
    if isinstance(label, list) and all(isinstance(one, str | int) for one in label):
        label = "|".join(map(str, label))
    if isinstance(label, dict | list):
        raise InputError(f"{row.where}: the label should be one word or number, found a {type(label).__name__}")
    return Example(text, pair, None if label is None else str(label))

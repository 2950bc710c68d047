"""Accuracy of a sequence classifier on labelled texts, and reading them from tsv, csv or jsonl."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from secateur.calibrate.rows import ROW_FILES, Row, file_kind, read_lines, read_rows
from secateur.core.errors import InputError
from secateur.evaluate.task import pad_batches
from secateur.score.gates import Batch

__all__ = ["Classification", "Example", "classification_task", "read_examples"]

_TEXT, _PAIR = ("text", "sentence", "question", "premise"), ("text_pair", "sentence2", "hypothesis")


class Example(NamedTuple):
    """A text, what it is paired with, and its label as the file writes it; labels may be missing."""

    text: str
    pair: str | None
    label: str | None


@dataclass(frozen=True, eq=False)
class Classification:
    """Share of samples whose most likely class is the label's."""

    batches: Sequence[Batch]
    metric: str = "accuracy"
    higher: bool = True

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy, summed over samples."""
        return nn.functional.cross_entropy(model(**_inputs(batch)).logits, batch["labels"], reduction="sum")

    @torch.no_grad()
    def parts(self, model: nn.Module) -> Float[np.ndarray, "samples 2"]:
        """Correct or not, and one."""
        correct = [model(**_inputs(batch)).logits.argmax(-1) == batch["labels"] for batch in self.batches]
        right = torch.cat(correct).double().numpy()
        return np.stack([right, np.ones_like(right)], axis=1)

    def value(self, total: Float[np.ndarray, "*runs 2"]) -> Float[np.ndarray, "*runs"]:
        """Accuracy."""
        return np.asarray(total[..., 0] / total[..., 1])


def _inputs(batch: Batch) -> dict[str, Tensor]:
    return {name: value for name, value in batch.items() if name != "labels"}


def classification_task(
    examples: Sequence[Example], model: Any, tokenizer: PreTrainedTokenizerBase, *, batch: int = 32, length: int = 256
) -> Classification:
    """Batches of like length; texts longer than `length` tokens are cut.

    Labels are the config's names or numbers. Where the file has none, the model's own
    answers stand for them, and the score is agreement with the model as it is. Raises
    InputError on a label the model does not know.
    """
    rows = tokenizer(
        [one.text for one in examples],
        [one.pair for one in examples] if examples[0].pair is not None else None,
        truncation=True,
        max_length=min(length, tokenizer.model_max_length),
    )
    batches: list[dict[str, Tensor]] = []
    for chosen, ids, mask in pad_batches(rows["input_ids"], batch, tokenizer.pad_token_id or 0):
        made = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in rows and examples[0].pair is not None:
            made["token_type_ids"] = torch.zeros_like(ids)
            made["token_type_ids"][mask.bool()] = torch.tensor(
                [t for row in chosen for t in rows["token_type_ids"][row]]
            )
        if examples[0].label is not None:
            made["labels"] = torch.tensor([_class(examples[row].label, model.config) for row in chosen])
        else:
            with torch.no_grad():
                made["labels"] = model(**made).logits.argmax(-1)
        batches.append(made)
    return Classification(batches, "accuracy" if examples[0].label is not None else "agreement")


def _class(label: str | None, config: Any) -> int:
    known: Mapping[str, int] = config.label2id or {}
    if label is not None and label in known:
        return known[label]
    if label is not None and label.isdigit() and int(label) < config.num_labels:
        return int(label)
    raise InputError(f"label {label!r} is not one of the model's {config.num_labels}: {', '.join(sorted(known)[:20])}")


def read_examples(path: Path, limit: int | None = None) -> list[Example]:
    """Texts and labels: .tsv lines of sentence TAB label, or .csv and .jsonl with text, text_pair and label.

    Raises InputError naming the line that cannot be used.
    """
    kind = file_kind(path)
    if kind == ".tsv":
        found = [_plain(where, line.split("\t")) for where, line in read_lines(path)[:limit]]
    elif kind in ROW_FILES:
        found = [_named(row) for row in read_rows(path)[:limit]]
    else:
        raise InputError(f"labelled texts {str(path)!r} should be a .tsv, {', '.join(ROW_FILES)} file")
    if not found:
        raise InputError(f"labelled texts {str(path)!r} are empty")
    whole = {(example.pair is None, example.label is None) for example in found}
    if len(whole) > 1:
        raise InputError(f"{path}: every line should have the same fields, some lack a label or a second text")
    return found


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
    if isinstance(label, dict | list):
        raise InputError(f"{row.where}: the label should be one word or number, found a {type(label).__name__}")
    return Example(text, pair, None if label is None else str(label))

"""Questions: an answer that is a span of a text, or one choice of several."""

import operator
import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from secateur.adapt.positions import check_ids
from secateur.calibrate.rows import Row, file_kind, read_plain, read_rows
from secateur.core.errors import InputError, NumericalError
from secateur.core.files import parse_json
from secateur.score.gates import Batch
from secateur.tasks.classification import Classification
from secateur.tasks.task import Share, pad_batches, pad_rows, segments

__all__ = ["Question", "Spans", "choices_task", "read_questions", "spans_task", "word_f1"]

_NONE = -100  # the place of an answer that was cut off
_LONGEST = 30  # tokens of an answer
_CONTEXT = ("context", "sent1", "article", "passage", "premise", "goal", "text", "question")  # a question stands last
_LEADS = ("sent2", "question")
_CHOICES, _RIGHT = ("choices", "endings", "options"), ("label", "answer", "answerKey")
_NUMBERED = re.compile(r"(ending|choice|sol)\d+")


class Question(NamedTuple):
    """A question, the text that answers it, and every answer with the character it starts at, if there is one."""

    question: str
    context: str
    answers: tuple[tuple[str, int], ...]


@dataclass(frozen=True, eq=False)
class Spans(Share):
    """Mean F1 of the words of the likeliest span and of the nearest answer, as SQuAD counts it.

    batches: `labels` [batch, 2] beside what the model reads: the first and last token of the answer, 0 where there is
    none. texts: for every batch, of every sample, its text, where each token begins and ends in it (None outside), and
    its answers.
    """

    metric: str = "f1"
    texts: Sequence[Sequence[tuple[str, Sequence[tuple[int, int] | None], Sequence[str]]]] = ()

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy of the first and the last token, their mean, summed over samples; answers cut off count 0."""
        parts = [
            nn.functional.cross_entropy(logits, labels, ignore_index=_NONE, reduction="sum")
            for logits, labels in zip(_ends(model, batch), batch["labels"].T, strict=True)
        ]
        return (parts[0] + parts[1]) / 2

    @torch.no_grad()
    def parts(self, model: nn.Module) -> Float[np.ndarray, "samples 2"]:
        """F1 of every sample, and one."""
        scores: list[float] = []
        for batch, texts in zip(self.batches, self.texts, strict=True):
            for first, last, (text, places, answers) in zip(*_ends(model, batch), texts, strict=True):
                said = _said(first, last, text, places)
                scores.append(max(word_f1(said, answer) for answer in answers or ("",)))
        return np.stack([scores, np.ones(len(scores))], axis=1)


def _ends(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits of the first and the last token, `[batch, seq]` each. Raises NumericalError on NaN."""
    out = model(**{name: value for name, value in batch.items() if name != "labels"})
    padded = batch["attention_mask"] == 0  # the loss of a sample does not depend on what it is padded with
    first, last = (logits.float().masked_fill(padded, -torch.inf) for logits in (out.start_logits, out.end_logits))
    if torch.isnan(first).any() or torch.isnan(last).any():
        raise NumericalError("the model's outputs are NaN: check its weights")
    return first, last


def _said(first: Tensor, last: Tensor, text: str, places: Sequence[tuple[int, int] | None]) -> str:
    """The likeliest span of the text, or nothing where the first token of all is likelier."""
    inside = torch.tensor([place is not None for place in places])
    count = len(places)
    total = first[:count, None] + last[None, :count]  # [first, last]
    tokens = torch.arange(count)[None] - torch.arange(count)[:, None]  # of a span, less one
    spans = (tokens >= 0) & (tokens < _LONGEST) & inside[:, None] & inside[None]
    total = total.masked_fill(~spans, -torch.inf)
    best = int(total.argmax())
    start, end = places[best // count], places[best % count]
    if start is None or end is None or total.flatten()[best] < first[0] + last[0]:
        return ""
    return text[start[0] : end[1]]


def word_f1(said: str, answer: str) -> float:
    """F1 of the words of two texts, in lower case, without punctuation and articles (SQuAD)."""
    words = [_words(said), _words(answer)]
    if not all(words):
        return float(words[0] == words[1])
    common = sum((Counter(words[0]) & Counter(words[1])).values())
    return 2 * common / (len(words[0]) + len(words[1]))


def _words(text: str) -> list[str]:
    plain = text.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", plain).split()


def read_questions(path: Path, limit: int | None = None) -> list[Question]:
    """Rows with `question`, `context` and `answers`, or a .json in SQuAD's own form.

    answers: `{"text": [...], "answer_start": [...]}`, or a list of `{"text", "answer_start"}`. Raises InputError
    naming the row that cannot be used.
    """
    rows = list(_squad(path)) if file_kind(path) == ".json" else read_rows(path)
    if not rows:
        raise InputError(f"questions {str(path)!r} are empty")
    return [_question(row) for row in rows[:limit]]


def _squad(path: Path) -> Iterator[Row]:
    try:
        document: Any = parse_json(read_plain(path))
    except ValueError as error:
        raise InputError(f"{str(path)!r} is no JSON: {error}") from error
    if not isinstance(document, dict):
        yield from read_rows(path)
        return
    try:
        for article in document["data"]:
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    yield Row(f"{path} question {asked.get('id')!r}", {**asked, "context": paragraph["context"]})
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{str(path)!r} is not in SQuAD's form, data > paragraphs > qas: {error!r}") from error


def _question(row: Row) -> Question:
    fields = row.fields
    question, context = fields.get("question"), fields.get("context")
    if not isinstance(question, str) or not isinstance(context, str):
        raise InputError(f"{row.where} needs a question and a context, both text")
    if "answers" not in fields:
        raise InputError(f"{row.where} has no answers: give a list of them, which is empty where there is none")
    answers: Any = fields["answers"]
    try:
        if isinstance(answers, Mapping):
            answers = [{"text": t, "answer_start": s} for t, s in zip(*_lists(answers), strict=True)]
        found = tuple((str(one["text"]), operator.index(one["answer_start"])) for one in answers)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{row.where}: answers should be texts, each with its answer_start") from error
    for text, start in found:
        if context[start : start + len(text)] != text or start < 0 or not text:
            raise InputError(f"{row.where}: the answer {text!r} does not stand at character {start} of the context")
    return Question(question, context, found)


def _lists(answers: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    return list(answers["text"]), list(answers["answer_start"])


def spans_task(
    path: Path,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    *,
    limit: int | None = None,
    batch: int = 32,
    length: int = 384,
) -> Spans:
    """Batches of questions and contexts; a context is cut at `length` tokens, and an answer beyond is not found.

    Raises InputError on a tokenizer that does not tell the characters of its tokens, and on rows that cannot be used.
    """
    if not tokenizer.is_fast:
        raise InputError("answers need a fast tokenizer, which tells the characters of its tokens: tokenizer.json")
    questions = read_questions(path, limit)
    read = tokenizer(
        [one.question.strip() for one in questions],
        [one.context for one in questions],
        truncation=True,  # of the longer of the two, which is the context but for odd rows
        max_length=min(length, tokenizer.model_max_length),
        return_offsets_mapping=True,
        verbose=False,
    )
    batches: list[Batch] = []
    texts: list[list[tuple[str, list[tuple[int, int] | None], list[str]]]] = []
    for chosen, ids, mask in pad_batches(read["input_ids"], batch, model.config.pad_token_id or 0):
        check_ids(ids, model.config, "questions")
        made = {"input_ids": ids, "attention_mask": mask} | segments(read, chosen, mask)
        own = [
            (questions[row].context, _places(read, row), [text for text, _ in questions[row].answers]) for row in chosen
        ]
        labels = [_labels(questions[row], places) for row, (_, places, _) in zip(chosen, own, strict=True)]
        batches.append(made | {"labels": torch.tensor(labels)})
        texts.append(own)
    return Spans(batches, texts=texts)


def _places(read: Any, row: int) -> list[tuple[int, int] | None]:
    parts = read.sequence_ids(row)
    return [
        (int(start), int(end)) if part == 1 and end > start else None
        for part, (start, end) in zip(parts, read["offset_mapping"][row], strict=True)
    ]


def _labels(question: Question, places: Sequence[tuple[int, int] | None]) -> list[int]:
    """The first and last token of the first answer that is not cut off; 0 and 0 where there is none, _NONE else."""
    if not question.answers:
        return [0, 0]
    read = max((place[1] for place in places if place is not None), default=0)  # characters
    for text, start in question.answers:
        end = start + len(text.rstrip())
        inside = [at for at, place in enumerate(places) if place is not None and place[0] < end and place[1] > start]
        if inside and end <= read:
            return [inside[0], inside[-1]]
    return [_NONE, _NONE]


def choices_task(
    path: Path,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    *,
    limit: int | None = None,
    batch: int = 16,
    length: int = 256,
) -> Classification:
    """Batches of one text with several choices, `[batch, choices, seq]`; the score is the share of right choices.

    Rows hold a context, `choices` (or `endings`, `options`; or ending0, choice1 and so on) and the number or letter of
    the right one as `label`. Raises InputError naming the row that cannot be used.
    """
    rows = [_choice(row) for row in read_rows(path)[:limit]]
    count = len(rows[0][1])
    for number, (_, choices, label) in enumerate(rows, 1):
        if len(choices) != count or not 0 <= label < count:
            raise InputError(
                f"{path} row {number} has {len(choices)} choices and label {label}: row 1 has {count} choices"
            )
    read = tokenizer(
        [context for context, choices, _ in rows for _ in choices],
        [choice for _, choices, _ in rows for choice in choices],
        truncation=True,
        max_length=min(length, tokenizer.model_max_length),
        verbose=False,
    )
    widest = [max(len(ids) for ids in read["input_ids"][row * count : (row + 1) * count]) for row in range(len(rows))]
    order = sorted(range(len(rows)), key=lambda row: (-widest[row], row))  # longest first, as elsewhere
    batches: list[Batch] = []
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        places = [row * count + choice for row in chosen for choice in range(count)]
        ids, mask = pad_rows([read["input_ids"][place] for place in places], model.config.pad_token_id or 0)
        check_ids(ids, model.config, "questions")
        made = {"input_ids": ids, "attention_mask": mask} | segments(read, places, mask)
        made = {name: value.unflatten(0, (len(chosen), count)) for name, value in made.items()}  # [batch, choices, seq]
        batches.append(made | {"labels": torch.tensor([rows[row][2] for row in chosen])})
    return Classification(batches)


def _choice(row: Row) -> tuple[str, list[str], int]:
    """The context, the choices, and which is right, of a row as RACE, SWAG, CommonsenseQA and others write it."""
    fields = row.fields
    context = next((fields[name] for name in _CONTEXT if isinstance(fields.get(name), str)), None)
    choices = next((fields[name] for name in _CHOICES if name in fields), None)
    keys: list[str] = []
    if isinstance(choices, Mapping):  # CommonsenseQA, ARC: {"label": ["A", ...], "text": [...]}
        keys, choices = [str(key) for key in choices.get("label", ())], choices.get("text")
    if choices is None:
        choices = [
            fields[name] for name in sorted(fields, key=lambda name: (len(name), name)) if _NUMBERED.fullmatch(name)
        ]
    plain = isinstance(choices, list | tuple | np.ndarray) and all(
        isinstance(one, str | int | float) for one in choices
    )
    if not plain or len(choices) < 2 or context is None:
        raise InputError(f"{row.where} needs a context and two choices or more: name its fields context and choices")
    leads = (fields[name] for name in _LEADS if isinstance(fields.get(name), str))
    lead = next((f"{text} " for text in leads if text != context), "")
    right = next((fields[name] for name in _RIGHT if name in fields), None)
    if keys and str(right) not in keys:
        raise InputError(f"{row.where}: the right choice should be one of {', '.join(keys)}, got {right!r}")
    number = keys.index(str(right)) if keys else _number(right, row.where)
    return context, [f"{lead}{choice}" for choice in choices], number


def _number(right: Any, where: str) -> int:
    """The right choice: a whole number from 0, or a letter from A."""
    if isinstance(right, str) and len(right) == 1 and right.isascii() and right.isalpha():
        return ord(right.upper()) - ord("A")
    try:
        return int(str(right))
    except ValueError as error:
        raise InputError(
            f"{where}: the right choice should be a number from 0 or a letter from A, got {right!r}"
        ) from error

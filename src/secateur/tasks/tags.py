"""A tag for each word: the share that is right, or F1 of the entities that tags mark."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from secateur.adapt.positions import check_ids
from secateur.calibrate.rows import Row, read_rows
from secateur.core.errors import InputError
from secateur.score.gates import Batch
from secateur.tasks.answers import outputs
from secateur.tasks.classification import class_number
from secateur.tasks.task import Share, f1, pad_batches

__all__ = ["Entities", "Tags", "entities", "tags_task"]

_INSIDE, _LAST = ("I", "E", "L"), ("E", "L", "S", "U")
_MARKS = ("B", "S", "U", *_INSIDE)
_NONE = -100  # the label of a token that is not judged
_WORDS, _TAGS = ("tokens", "words"), ("tags", "ner_tags", "labels")


class Tags(Share):
    """Share of words whose most likely tag is the label's; the first token of a word stands for it."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy, summed over words."""
        logits = outputs(model, batch).transpose(1, 2)  # [batch, tags, seq]
        return nn.functional.cross_entropy(logits, batch["labels"], ignore_index=_NONE, reduction="sum")

    @torch.no_grad()
    def parts(self, model: nn.Module) -> Float[np.ndarray, "samples 2"]:
        """Words that are right, and words."""
        rows = []
        for batch in self.batches:
            labels = batch["labels"]
            right = (outputs(model, batch).argmax(dim=-1) == labels) & (labels != _NONE)
            rows.append(torch.stack([right.sum(dim=1), (labels != _NONE).sum(dim=1)], dim=1).double())
        return torch.cat(rows).numpy()


@dataclass(frozen=True, eq=False)
class Entities(Tags):
    """F1 of entities: runs of words that tags such as B-X and I-X mark, right where both ends and the kind are.

    names: the tag of every class.
    """

    metric: str = "entity f1"
    names: Sequence[str] = ()

    @torch.no_grad()
    def parts(self, model: nn.Module) -> Float[np.ndarray, "samples 2"]:
        """Entities found, and half of all that were said or true."""
        rows = []
        for batch in self.batches:
            said = outputs(model, batch).argmax(dim=-1)
            for own, label in zip(said, batch["labels"], strict=True):
                pair = [entities([self.names[tag] for tag in tags[label != _NONE].tolist()]) for tags in (own, label)]
                rows.append([len(pair[0] & pair[1]), (len(pair[0]) + len(pair[1])) / 2])
        return np.asarray(rows, dtype=np.float64)

    def value(self, total: Float[np.ndarray, "*runs 2"]) -> Float[np.ndarray, "*runs"]:
        """F1; 1 where there is no entity and none was said."""
        return f1(total)


def entities(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """First word, word after the last, and kind of every entity; I-X begins one where none of kind X goes on.

    E-X and L-X end one, S-X and U-X are one of a single word (BIOES, BILOU).
    """
    found: set[tuple[int, int, str]] = set()
    start, kind = 0, ""
    for place, tag in enumerate([*tags, "O"]):
        mark, _, own = tag.partition("-")
        if kind and (mark not in _INSIDE or own != kind):
            found.add((start, place, kind))
            kind = ""
        if mark in _MARKS and not kind:
            start, kind = place, own
        if mark in _LAST and kind:
            found.add((start, place + 1, kind))
            kind = ""
    return found


def tags_task(
    path: Path,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    *,
    limit: int | None = None,
    batch: int = 32,
    length: int = 256,
) -> Tags:
    """Batches of the sentences of a .jsonl or .parquet: `tokens`, a list of words, and `tags`, as many names.

    Entities are judged where tags are named B-X and I-X, single words elsewhere. Words beyond `length` tokens are cut.
    Raises InputError naming the row that cannot be used.
    """
    if not tokenizer.is_fast:
        raise InputError("tags of words need a fast tokenizer, which tells the words of its tokens: tokenizer.json")
    rows = [_tagged(row, model.config) for row in read_rows(path)[:limit]]
    if not rows:
        raise InputError(f"tagged sentences {str(path)!r} are empty")
    read = tokenizer(
        [words for words, _ in rows],
        is_split_into_words=True,
        truncation=True,
        max_length=min(length, tokenizer.model_max_length),
        verbose=False,
    )
    batches: list[Batch] = []
    for chosen, ids, mask in pad_batches(read["input_ids"], batch, model.config.pad_token_id or 0):
        check_ids(ids, model.config, "tagged sentences")
        labels = torch.full(ids.shape, _NONE)
        for place, row in enumerate(chosen):
            for token, word in _first_tokens(read.word_ids(row)):
                labels[place, token] = rows[row][1][word]
        batches.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    if not any((made["labels"] != _NONE).any() for made in batches):
        raise InputError(f"tagged sentences {str(path)!r} have no word within {length} tokens: nothing could be judged")
    return _judged(batches, [tags for _, tags in rows], model.config, path)


def _first_tokens(words: Sequence[int | None]) -> Iterator[tuple[int, int]]:
    """Every word's first token, and the word."""
    for token, word in enumerate(words):
        if word is not None and (not token or words[token - 1] != word):
            yield token, word


def _judged(batches: Sequence[Batch], rows: Sequence[Sequence[int]], config: Any, path: Path) -> Tags:
    """The task, of entities where classes are named so. Raises InputError where no row marks one."""
    known = {number: str(name) for number, name in (config.id2label or {}).items()}
    names = [known.get(number, "O") for number in range(config.num_labels)]
    if not any(name[1:2] == "-" and name[0] in _MARKS for name in names):
        return Tags(batches)
    if not any(entities([names[tag] for tag in tags]) for tags in rows):
        raise InputError(f"tagged sentences {str(path)!r} mark no entity: nothing could be judged")
    return Entities(batches, names=names)


def _tagged(row: Row, config: Any) -> tuple[list[str], list[int]]:
    words, tags = (_list(row, names) for names in (_WORDS, _TAGS))
    if len(words) != len(tags) or not words:
        raise InputError(f"{row.where} has {len(words)} words and {len(tags)} tags: give as many of each, one at least")
    if not all(isinstance(word, str) and word.strip() for word in words):
        raise InputError(f"{row.where} has words that are blank or no text")
    try:
        return list(words), [class_number(str(tag), config) for tag in tags]
    except InputError as error:
        raise InputError(f"{row.where}: {error}") from error


def _list(row: Row, names: Sequence[str]) -> list[Any]:
    fields: Mapping[str, Any] = row.fields
    found = next((fields[name] for name in names if name in fields), None)
    if not isinstance(found, list | tuple | np.ndarray):
        raise InputError(f"{row.where} has no list of {names[0]}: name its fields tokens and tags")
    return list(found)

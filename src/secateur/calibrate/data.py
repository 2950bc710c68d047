"""Calibration samples from text, jsonl, datasets, token ids or the bundled corpus."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from secateur.calibrate.bundled import Split, bundled_text
from secateur.core.errors import CalibrationError, InputError
from secateur.core.seed import generator
from secateur.core.shapes import TokenIds

__all__ = ["Calibration", "read_text", "text_ids", "windows_apart"]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Where samples come from and how many: `samples` windows of `length` tokens.

    source: "bundled", a .txt or .jsonl file (its "text" fields), a .safetensors file
    with an `ids` tensor, or datasets:NAME[:SPLIT[:COLUMN]].
    """

    source: str = "bundled"
    samples: int = 16
    length: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse sizes that cannot calibrate anything."""
        if self.samples < 1 or self.length < 2:
            raise CalibrationError(
                f"calibration of {self.samples} samples x {self.length} tokens is empty: need at least 1 x 2"
            )

    def draw(self, tokenizer: PreTrainedTokenizerBase | None) -> TokenIds:
        """Windows `[samples, length]` at random offsets fixed by the seed.

        Raises CalibrationError when the text has fewer tokens than one window.
        """
        return windows(*self.tokens(tokenizer), self)

    def draw_apart(
        self, tokenizer: PreTrainedTokenizerBase | None, held: int, *, share: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Windows `[samples, length]` as `draw`'s, and `held` others that share no token with them or with each other.

        share: at most that part of the text is held out, but one window at least. Raises CalibrationError
        when the text is too short for that.
        """
        return windows_apart(*self.tokens(tokenizer), self, held, share)

    def tokens(self, tokenizer: PreTrainedTokenizerBase | None) -> tuple[Tensor, list[int]]:
        """All token ids of the source, `[tokens]`, and what every window starts with."""
        prefix: list[int] = []
        if self.source.endswith(".safetensors"):
            ids = _stored_ids(Path(self.source))
        elif tokenizer is None:
            raise CalibrationError(f"calibration from {self.source!r} needs a tokenizer, and the model has none")
        else:
            ids, prefix = text_ids(read_text(self.source, "calibration"), tokenizer)
        return ids, prefix


def windows(ids: Tensor, prefix: list[int], plan: Calibration) -> TokenIds:
    """Cut random windows; every one starts with the tokenizer's own prefix, if it has one."""
    body = plan.length - len(prefix)
    if len(ids) < body:
        raise CalibrationError(
            f"calibration text {plan.source!r} has {len(ids)} tokens, fewer than one sample of {plan.length}: "
            "give more text or a smaller --length"
        )
    offsets = torch.randint(
        len(ids) - body + 1, (plan.samples,), generator=generator(plan.seed, "calibration", "offsets")
    )
    cut = torch.stack([ids[start : start + body] for start in offsets.tolist()])
    head = torch.tensor(prefix, dtype=cut.dtype).expand(plan.samples, len(prefix))
    return torch.cat([head, cut], dim=1)


def windows_apart(ids: Tensor, prefix: list[int], plan: Calibration, held: int, share: float) -> tuple[Tensor, Tensor]:
    """Held-out windows stand in places of a grid; the others lie anywhere that touches none of them."""
    body = plan.length - len(prefix)
    places = len(ids) // body if body > 0 else 0
    held = min(held, max(1, int(share * places)))
    if places <= held:
        raise CalibrationError(
            f"text {plan.source!r} has {len(ids)} tokens, too few to hold {held} windows of {plan.length} "
            "out of it and have one left: give more text or a smaller --length"
        )
    stream = generator(plan.seed, "calibration", "apart")
    taken = torch.zeros(len(ids) + 1, dtype=torch.long)
    apart = (torch.randperm(places, generator=stream)[:held].sort().values * body).tolist()
    for start in apart:
        taken[start + 1 : start + body + 1] = 1
    before = taken.cumsum(0)
    free = (before[body:] == before[: len(before) - body]).nonzero().flatten()
    drawn = free[torch.randint(len(free), (plan.samples,), generator=stream)].tolist()

    def cut(starts: list[int]) -> Tensor:
        parts = torch.stack([ids[start : start + body] for start in starts])
        return torch.cat([torch.tensor(prefix, dtype=parts.dtype).expand(len(parts), len(prefix)), parts], dim=1)

    return cut(drawn), cut(apart)


def text_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[Tensor, list[int]]:
    """The token ids of a text, `[tokens]`, and what the tokenizer puts before any text (BOS)."""
    empty = tokenizer("").input_ids
    end = {tokenizer.eos_token_id, getattr(tokenizer, "sep_token_id", None)}
    prefix = [token for token in empty if token not in end or token == tokenizer.bos_token_id]
    ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    return torch.tensor(ids, dtype=torch.long), prefix


def read_text(source: str, split: Split) -> str:
    """The text of a source; `split` picks the half of the bundled corpus.

    Raises InputError when the file is missing, unreadable or empty.
    """
    if source == "bundled":
        return bundled_text(split)
    if source.startswith("datasets:"):
        return _dataset_text(source)
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"text {source!r} cannot be read ({error}): give a .txt or .jsonl file, or 'bundled'"
        ) from error
    text = _jsonl_text(path, text) if path.suffix == ".jsonl" else text
    if not text.strip():
        raise CalibrationError(f"text {source!r} is empty")
    return text


def _jsonl_text(path: Path, content: str) -> str:
    texts: list[str] = []
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            texts.append(json.loads(line)["text"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f'{path} line {number} should be an object with a "text" field') from error
    return "\n\n".join(texts)


def _dataset_text(source: str) -> str:
    _, name, *rest = source.split(":")
    split, column = (rest + ["train", "text"][len(rest) :])[:2]
    try:
        from datasets import load_dataset  # optional: only users of a datasets name pay for it

        rows = load_dataset(name, split=split)
        return "\n\n".join(rows[column])
    except Exception as error:  # datasets raises many kinds; each means the name cannot be used
        raise InputError(f"dataset {name!r} (split {split!r}, column {column!r}) cannot be read: {error}") from error


def _stored_ids(path: Path) -> Tensor:
    try:
        ids = load_file(path)["ids"]
    except (SafetensorError, OSError, KeyError) as error:
        raise InputError(f"{path} should be a safetensors file with an 'ids' tensor: {error}") from error
    if ids.dtype not in (torch.int32, torch.int64) or ids.dim() not in (1, 2):
        raise InputError(f"{path}: ids should be whole numbers, got {ids.dtype} {list(ids.shape)}")
    return ids.reshape(-1).long()

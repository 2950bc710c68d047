"""Calibration samples from text, jsonl, datasets, token ids, pictures or the bundled corpus."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from secateur.adapt.positions import check_length, default_length
from secateur.calibrate.bundled import Split, bundled_text
from secateur.calibrate.rows import ROW_FILES, TEXT_FILES, file_kind, read_plain, read_rows, row_text
from secateur.core.errors import CalibrationError, InputError
from secateur.core.seed import generator
from secateur.core.shapes import Samples, TokenIds
from secateur.infer.blocks import reads_pictures
from secateur.storage.pictures import load_preparation, read_prepared
from secateur.storage.source import Source, load_tokenizer

__all__ = ["Calibration", "draw_for", "read_text", "text_ids", "windows_apart"]

DEFAULT_LENGTH = 1024  # tokens of a sample


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Where samples come from, and how many.

    source: "bundled", a .txt, .jsonl, .json, .csv or .parquet file (also .gz), a
    .safetensors file with an `ids` tensor, or datasets:NAME[:SPLIT[:COLUMN]]; for models that read
    pictures a folder or .zip of them.
    samples: windows of text, or pictures, that are drawn. seed: fixes which.
    length: tokens of a window; None is 1024, or as many as the model has positions.
    text_column: the field of rows that holds text; None is "text", or `messages`.
    """

    source: str = "bundled"
    samples: int = 16
    length: int | None = None
    seed: int = 0
    text_column: str | None = None

    def __post_init__(self) -> None:
        """Refuse sizes that cannot calibrate anything."""
        if self.samples < 1 or (self.length is not None and self.length < 2):
            raise CalibrationError(
                f"calibration of {self.samples} samples x {self.length} tokens is empty: need at least 1 x 2"
            )
        if self.seed < 0:
            raise CalibrationError(f"calibration seed {self.seed} should be 0 or more")

    def fitted(self, config: PretrainedConfig) -> "Calibration":
        """The same with a length this model can read: 1024 tokens, or as many as it has positions, unless one is set.

        Raises InputError where the length that is set is more than the model has positions.
        """
        if self.length is None:
            return replace(self, length=default_length(config))
        check_length(self.length, config, "calibration")
        return self

    def draw(self, tokenizer: PreTrainedTokenizerBase | None) -> TokenIds:
        """Windows `[samples, length]` at random offsets fixed by the seed; a length that is not set is 1024.

        Raises CalibrationError when the text has fewer tokens than one window.
        """
        return self.draw_held(tokenizer, 0)[0]

    def draw_held(self, tokenizer: PreTrainedTokenizerBase | None, held: int) -> tuple[Tensor, Tensor | None]:
        """Windows as `draw`'s, and up to `held` others that share no token with them; None where none is left."""
        return windows(*self.tokens(tokenizer), self, held)

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
            text = read_text(self.source, "calibration", column=self.text_column, tokenizer=tokenizer)
            ids, prefix = text_ids(text, tokenizer)
        return ids, prefix


def draw_for(
    model: PreTrainedModel, source: Source, calibration: Calibration, held: int = 0
) -> tuple[Samples, TokenIds | None]:
    """What a model is calibrated on: windows of text, and up to `held` others, or pictures where it reads those.

    Raises InputError or CalibrationError where the calibration's source cannot be read for this model.
    """
    if not reads_pictures(model):
        return calibration.fitted(model.config).draw_held(load_tokenizer(source), held)
    if calibration.source == "bundled":
        raise InputError(f"{type(model).__name__} reads pictures: give --images DIR or .zip to calibrate on")
    prepare = load_preparation(source)
    return read_prepared(calibration.source, prepare, limit=calibration.samples, seed=calibration.seed).pixels, None


def windows(ids: Tensor, prefix: list[int], plan: Calibration, held: int = 0) -> tuple[Tensor, Tensor | None]:
    """Cut random windows, and up to `held` that touch none of them; each starts with the tokenizer's prefix, if any."""
    length = plan.length or DEFAULT_LENGTH
    body = length - len(prefix)
    if len(ids) < body or body < 1:
        raise CalibrationError(
            f"calibration text {plan.source!r} has {len(ids)} tokens, fewer than one sample of {length}: "
            "give more text or a smaller --length"
        )
    offsets = torch.randint(
        len(ids) - body + 1, (plan.samples,), generator=generator(plan.seed, "calibration", "offsets")
    )
    near = offsets.sort().values  # [samples]
    places = torch.arange(0, len(ids) - body + 1, body)  # a grid: windows on it never overlap each other
    after = torch.searchsorted(near, places - body, right=True)  # the first window that ends behind the place's start
    free = places[(after == len(near)) | (near[after.clamp_max(len(near) - 1)] >= places + body)]
    chosen = free[torch.randperm(len(free), generator=generator(plan.seed, "calibration", "held"))[:held]]
    drawn = _cut(ids, prefix, offsets.tolist(), body)
    return drawn, _cut(ids, prefix, chosen.tolist(), body) if len(chosen) else None


def _cut(ids: Tensor, prefix: list[int], starts: list[int], body: int) -> TokenIds:
    parts = torch.stack([ids[start : start + body] for start in starts])  # [windows, body]
    return torch.cat([torch.tensor(prefix, dtype=parts.dtype).expand(len(parts), len(prefix)), parts], dim=1)


def windows_apart(ids: Tensor, prefix: list[int], plan: Calibration, held: int, share: float) -> tuple[Tensor, Tensor]:
    """Held-out windows stand in places of a grid; the others lie anywhere that touches none of them."""
    length = plan.length or DEFAULT_LENGTH
    body = length - len(prefix)
    places = len(ids) // body if body > 0 else 0
    held = min(held, max(1, int(share * places)))
    if places <= held:
        raise CalibrationError(
            f"text {plan.source!r} has {len(ids)} tokens, too few to hold {held} windows of {length} "
            "out of it and have one left: give more text or a smaller --length"
        )
    stream = generator(plan.seed, "calibration", "apart")
    taken = torch.zeros(len(ids) + 1, dtype=torch.long)
    apart = (torch.randperm(places, generator=stream)[:held].sort().values * body).tolist()
    for start in apart:
        taken[start + 1 : start + body + 1] = 1  # shifted by one: sums below are differences of prefix sums
    before = taken.cumsum(0)
    # Starts whose window holds no taken token.
    free = (before[body:] == before[: len(before) - body]).nonzero().flatten()
    drawn = free[torch.randint(len(free), (plan.samples,), generator=stream)].tolist()
    return _cut(ids, prefix, drawn, body), _cut(ids, prefix, apart, body)


def text_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[Tensor, list[int]]:
    """The token ids of a text, `[tokens]`, and what the tokenizer puts before any text (BOS)."""
    # What an empty text becomes is what the tokenizer adds to any: BOS in front, for some EOS at the end.
    empty = tokenizer("").input_ids
    end = {tokenizer.eos_token_id, getattr(tokenizer, "sep_token_id", None)}
    prefix = [token for token in empty if token not in end or token == tokenizer.bos_token_id]
    ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    return torch.tensor(ids, dtype=torch.long), prefix


def read_text(
    source: str, split: Split, *, column: str | None = None, tokenizer: PreTrainedTokenizerBase | None = None
) -> str:
    """The text of a source; `split` picks the half of the bundled corpus.

    column: the field of rows that holds text; without one "text", or `messages` through the tokenizer's chat
    template. Raises InputError when the file is missing, unreadable or of another kind, CalibrationError when empty.
    """
    if source == "bundled":
        return bundled_text(split)
    if source.startswith("datasets:"):
        return _dataset_text(source, column)
    path = Path(source)
    kind = file_kind(path)
    if kind in TEXT_FILES:
        text = read_plain(path)
    elif kind in ROW_FILES:
        text = "\n\n".join(row_text(row, column, tokenizer) for row in read_rows(path))
    else:
        known = ", ".join((*TEXT_FILES, *ROW_FILES))
        raise InputError(f"text {source!r} should be a {known} file (also .gz), datasets:NAME, or 'bundled'")
    if not text.strip():
        raise CalibrationError(f"text {source!r} is empty")
    return text


def _dataset_text(source: str, column: str | None) -> str:
    _, name, *rest = source.split(":")
    split, named = (rest + ["train", "text"][len(rest) :])[:2]
    column = column or named
    try:
        from datasets import load_dataset  # optional: only users of a datasets name pay for it

        rows = load_dataset(name, split=split)
        return "\n\n".join(rows[column])
    except ImportError as error:
        raise InputError(f"dataset {name!r} needs its package: pip install 'secateur[eval]'") from error
    except Exception as error:  # datasets raises many kinds; each means the name cannot be used
        raise InputError(f"dataset {name!r} (split {split!r}, column {column!r}) cannot be read: {error}") from error


def _stored_ids(path: Path) -> Tensor:
    try:
        ids = load_file(path)["ids"]
    except (SafetensorError, OSError, KeyError) as error:
        raise InputError(f"{path} should be a safetensors file with an 'ids' tensor: {error}") from error
    if ids.dtype not in (torch.int32, torch.int64) or ids.dim() not in (1, 2) or not ids.numel():
        raise InputError(f"{path}: ids should be whole numbers, got {ids.dtype} {list(ids.shape)}")
    return ids.reshape(-1).long()

"""Perplexity of a causal language model on a text, strided, with its token count."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import ModelOutput

from secateur.adapt.block import replaced
from secateur.adapt.positions import check_ids, default_length
from secateur.calibrate.data import read_text, text_ids
from secateur.core.errors import InputError

__all__ = ["Perplexity", "mean_loss", "token_losses"]

_LENGTH = 1024
_LOGIT_ROWS = 64  # positions whose vocabulary logits are held at a time


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """exp of the mean loss of every scored token.

    Windows of `length` tokens (None: 1024, or fewer where the model has fewer positions)
    start every `stride` tokens (None: every `length`); a token is scored once, in the first
    window that holds it, given all tokens of the window before it. Every window starts with
    the tokenizer's BOS if it adds one. `limit` stops after that many windows.
    `column` is the field of rows that holds text.
    """

    source: str = "bundled"
    length: int | None = None
    stride: int | None = None
    limit: int | None = None
    column: str | None = None

    def __post_init__(self) -> None:
        """Refuse windows that score nothing."""
        length = _LENGTH if self.length is None else self.length
        stride = length if self.stride is None else self.stride
        limit = 1 if self.limit is None else self.limit
        if length < 2 or not 1 <= stride <= length or limit < 1:
            raise InputError(
                f"perplexity needs length >= 2, 1 <= stride <= length and limit >= 1, got {length}, "
                f"{self.stride}, {self.limit}"
            )

    def measure(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> dict[str, float]:
        """`perplexity` and the number of `tokens` scored; progress counts windows.

        Raises InputError on a text the model cannot read.
        """
        length = default_length(model.config, _LENGTH) if self.length is None else self.length
        ids, prefix = text_ids(read_text(self.source, "evaluation", column=self.column, tokenizer=tokenizer), tokenizer)
        start_ids = torch.tensor(prefix, dtype=torch.long)
        if length <= len(prefix):
            raise InputError(
                f"windows of {length} tokens hold no text after the tokenizer's own {len(prefix)}: use more"
            )
        windows = replace(self, length=length, stride=self.stride and min(self.stride, length)).windows(
            len(ids), len(prefix)
        )
        total, count = 0.0, 0
        for done, (start, scored) in enumerate(windows):
            progress(done, len(windows))
            window = torch.cat([start_ids, ids[start : start + length - len(prefix)]])[None]  # [1, length]
            check_ids(window, model.config, f"text {self.source!r}")
            losses = token_losses(model, window.to(model.device))[0, -scored:]  # [scored]
            total += float(losses.double().sum())  # float32 sums over a long text lose digits
            count += len(losses)
        if count == 0:
            raise InputError(f"text {self.source!r} has {len(ids)} tokens, too few to score")
        return {"perplexity": math.exp(min(total / count, 700.0)), "tokens": count}  # exp(710) overflows

    def windows(self, tokens: int, prefix: int) -> list[tuple[int, int]]:
        """(first token, tokens scored at the window's end) of every window."""
        body = (self.length or _LENGTH) - prefix
        stride = min(self.stride or body, body)
        spans: list[tuple[int, int]] = []
        reached = 0  # tokens before this one are scored
        for start in range(0, tokens, stride):
            end = min(start + body, tokens)
            first = max(reached, start if prefix else start + 1)  # the first token has nothing before it
            if end > first:
                spans.append((start, end - first))
            reached = end
            if end == tokens or len(spans) == self.limit:
                break
        return spans


@torch.no_grad()
def token_losses(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Negative log-likelihood of every token after the first, `[batch, seq - 1]`, float32.

    Logits are what the model's own forward makes of hidden states: many classes scale, shift or transform them.
    It is asked for a few positions at a time, so that logits of a large vocabulary never lie in memory together.
    """
    inputs, targets = ids[:, :-1], ids[:, 1:]
    losses = torch.empty(targets.shape, device=ids.device)
    for part, logits in _logits(model, inputs):
        flat, asked = logits.flatten(0, 1).float(), targets[:, part]  # [batch * positions, vocabulary]
        losses[:, part] = nn.functional.cross_entropy(flat, asked.flatten(), reduction="none").view(asked.shape)
    return losses


def mean_loss(model: PreTrainedModel, windows: Tensor) -> float:
    """Mean over all tokens but the first of every window, nats a token; windows `[samples, length]`, one at a time."""
    losses = torch.cat([token_losses(model, window).flatten() for window in windows.split(1)])
    return float(losses.double().mean())


def _logits(model: PreTrainedModel, ids: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The model's logits `[batch, positions, vocabulary]` for runs of positions, or for all where it must be."""
    body = model.base_model
    whole = None if body is model else body(ids, use_cache=False)
    if not isinstance(whole, ModelOutput):
        yield slice(None), model(ids, use_cache=False).logits
        return
    rows = max(1, _LOGIT_ROWS // len(ids))
    for start in range(0, ids.shape[1], rows):
        part = slice(start, start + rows)
        answer = _Answer(whole, part)
        with replaced(body, answer):
            logits = model(ids[:, part], use_cache=False).logits
        if not answer.asked:  # a class that goes past its body sees none of the tokens before the part
            yield slice(None), model(ids, use_cache=False).logits
            return
        yield part, logits


class _Answer:
    """A body that puts out what it did, at some positions alone."""

    def __init__(self, whole: ModelOutput, part: slice) -> None:
        first = next(iter(whole))  # the hidden states `[batch, positions, hidden]`
        self._output = type(whole)(**{**whole, first: whole[first][:, part]})
        self.asked = False

    def __call__(self, *args: Any, **kwargs: Any) -> ModelOutput:
        self.asked = True
        return self._output

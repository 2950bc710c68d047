"""Perplexity by windows: of every next token, or of hidden ones for a masked language model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.adapt.positions import check_ids
from secateur.calibrate.data import read_text, text_ids
from secateur.core.errors import InputError
from secateur.core.seed import generator
from secateur.score.gates import Batch

__all__ = ["Language", "language_task"]

_HIDDEN = 0.15  # share of tokens a masked language model guesses, as BERT was trained


@dataclass(frozen=True, eq=False)
class Language:
    """exp of the mean loss of the labelled tokens; `causal`: a token is guessed from those before it."""

    batches: Sequence[Batch]
    causal: bool = True
    metric: str = "perplexity"
    higher: bool = False

    def _losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """Of every labelled position, `[batch, seq]`; 0 elsewhere."""
        logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
        labels = batch["labels"]
        if self.causal:
            logits, labels = logits[:, :-1], labels[:, 1:]  # position t guesses token t + 1
        return nn.functional.cross_entropy(logits.float().transpose(1, 2), labels, ignore_index=-100, reduction="none")

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy, summed over tokens."""
        return self._losses(model, batch).sum()

    @torch.no_grad()
    def parts(self, model: nn.Module) -> Float[np.ndarray, "samples 2"]:
        """Loss and labelled tokens of every window."""
        rows = []
        for batch in self.batches:
            labels = batch["labels"][:, 1:] if self.causal else batch["labels"]
            rows.append(torch.stack([self._losses(model, batch).double().sum(1), (labels != -100).sum(1).double()], 1))
        return torch.cat(rows).numpy()

    def value(self, total: Float[np.ndarray, "*runs 2"]) -> Float[np.ndarray, "*runs"]:
        """Perplexity."""
        return np.asarray(np.exp(np.minimum(total[..., 0] / total[..., 1], 700.0)))


def language_task(
    source: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    limit: int | None = None,
    batch: int = 1,
    length: int = 512,
) -> Language:
    """Consecutive windows of a text, `limit` of them. Raises InputError when it fills not one."""
    ids, prefix = text_ids(read_text(source, "evaluation"), tokenizer)
    causal = not type(model).__name__.endswith("MaskedLM")
    suffix = [] if causal or tokenizer.sep_token_id is None else [tokenizer.sep_token_id]
    body = length - len(prefix) - len(suffix)
    count = min(len(ids) // body, limit or len(ids)) if body > 1 else 0
    if count < 1:
        raise InputError(f"text {source!r} has {len(ids)} tokens, fewer than one window of {length}")
    rows = ids[: count * body].reshape(count, body)  # [windows, tokens]
    ends = [torch.tensor(part, dtype=ids.dtype).expand(count, len(part)) for part in (prefix, suffix)]
    windows = torch.cat([ends[0], rows, ends[1]], dim=1)  # [windows, length]
    labels = windows if causal else _hide(windows, len(prefix), body)
    inputs = windows if causal else torch.where(labels == -100, windows, _mask_id(tokenizer))
    check_ids(inputs, model.config, f"text {source!r}")
    check_ids(windows, model.config, f"text {source!r}")
    parts = zip(inputs.split(batch), labels.split(batch), strict=True)
    return Language([{"input_ids": sample_ids, "labels": label} for sample_ids, label in parts], causal)


def _hide(windows: Tensor, start: int, body: int) -> Tensor:
    """15% of every window's own tokens, one at least; -100 elsewhere."""
    chosen = torch.zeros(windows.shape, dtype=torch.bool)
    draw = torch.rand(len(windows), body, generator=generator(0, "hidden"))
    chosen[:, start : start + body] = (draw < _HIDDEN) | (draw == draw.amin(dim=1, keepdim=True))
    return torch.where(chosen, windows, -100)


def _mask_id(tokenizer: PreTrainedTokenizerBase) -> int:
    if tokenizer.mask_token_id is None:
        raise InputError("the tokenizer has no mask token, which a masked language model needs")
    return int(tokenizer.mask_token_id)

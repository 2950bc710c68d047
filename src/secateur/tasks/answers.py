"""Tasks whose answers are not one class a text: a number, several labels, or an embedding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from secateur.core.errors import InputError, NumericalError
from secateur.core.seed import generator
from secateur.score.gates import Batch
from secateur.tasks.classification import Example, class_number, text_batches
from secateur.tasks.task import Share, f1

__all__ = [
    "Embedding",
    "Regression",
    "SeveralLabels",
    "embedding_task",
    "labels_task",
    "outputs",
    "pooled",
    "regression_task",
]


@dataclass(frozen=True, eq=False)
class Regression(Share):
    """Pearson's correlation of outputs with labels, one number a text."""

    metric: str = "pearson"

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Squared error, summed over samples."""
        return (outputs(model, batch)[:, 0] - batch["labels"]).square().sum()

    @torch.no_grad()
    def parts(self, model: nn.Module) -> Float[np.ndarray, "samples 6"]:
        """One, output, label, their squares and their product."""
        rows = []
        for batch in self.batches:
            x, y = outputs(model, batch)[:, 0].double(), batch["labels"].double()
            rows.append(torch.stack([torch.ones_like(x), x, y, x * x, y * y, x * y], dim=1))
        return torch.cat(rows).numpy()

    def value(self, total: Float[np.ndarray, "*runs 6"]) -> Float[np.ndarray, "*runs"]:
        """The correlation; 0 where outputs or labels do not vary.

        Formula: r = (n sum xy - sum x sum y) / sqrt((n sum x^2 - (sum x)^2) (n sum y^2 - (sum y)^2))
        """
        n, x, y, xx, yy, xy = np.moveaxis(np.asarray(total, dtype=np.float64), -1, 0)
        spread = (n * xx - x * x).clip(0) * (n * yy - y * y).clip(0)
        varies = spread > 1e-12 * (n * xx * n * yy)  # less is rounding
        return np.where(varies, (n * xy - x * y) / np.sqrt(np.where(varies, spread, 1.0)), 0.0)


@dataclass(frozen=True, eq=False)
class SeveralLabels(Share):
    """F1 over all labels of all texts (micro), where a text may have any number of them."""

    metric: str = "f1"

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Binary cross-entropy, summed over samples and labels."""
        logits = outputs(model, batch)
        return nn.functional.binary_cross_entropy_with_logits(logits, batch["labels"], reduction="sum")

    @torch.no_grad()
    def parts(self, model: nn.Module) -> Float[np.ndarray, "samples 2"]:
        """Labels found, and half of all that were said or true."""
        rows = []
        for batch in self.batches:
            said, true = outputs(model, batch) > 0, batch["labels"] > 0
            rows.append(torch.stack([(said & true).sum(dim=1), said.sum(dim=1) + true.sum(dim=1)], dim=1).double())
        return torch.cat(rows).numpy() * [1.0, 0.5]

    def value(self, total: Float[np.ndarray, "*runs 2"]) -> Float[np.ndarray, "*runs"]:
        """F1; 1 where no label was said or true.

        Formula: F1 = 2 TP / (2 TP + FP + FN)
        """
        return f1(total)


@dataclass(frozen=True, eq=False)
class Embedding(Share):
    """Mean cosine of a text's embedding and the one that the model as it was gave it.

    batches: `targets` [batch, hidden] beside what the model reads. first: the first token's hidden state stands for a
    text, and not the mean.
    """

    metric: str = "cosine"
    first: bool = False

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """1 less the cosine, summed over samples; its derivative is that of the embedding along a random direction too.

        The cosine itself has no slope at the dense model. The mean square of the other derivative with respect to a
        gate is the square of how far the embedding moves with it.

        Formula: E_r[(d r.e / d gate)^2] = ||d e / d gate||^2, r of random signs [Hutchinson 1989]
        """
        found = pooled(model, batch, first=self.first)
        stream = generator(0, "directions", *found.shape)
        signs = torch.randint(2, found.shape, generator=stream) * 2.0 - 1.0
        along = (found * signs.to(found)).sum()
        return (1 - (found * batch["targets"]).sum(dim=1)).sum() + along - along.detach()

    @torch.no_grad()
    def parts(self, model: nn.Module) -> Float[np.ndarray, "samples 2"]:
        """Cosine, and one."""
        cosines = [(pooled(model, batch, first=self.first) * batch["targets"]).sum(dim=1) for batch in self.batches]
        whole = torch.cat(cosines).double().numpy()
        return np.stack([whole, np.ones_like(whole)], axis=1)


def pooled(model: nn.Module, batch: Batch, *, first: bool = False) -> Float[Tensor, "batch hidden"]:
    """Embeddings of length 1: the mean of hidden states that are no padding, or the first token's."""
    inputs = {name: value for name, value in batch.items() if name not in ("targets", "labels")}
    hidden: Tensor = model(**inputs)[0]  # [batch, seq, hidden]
    mask = batch["attention_mask"].to(hidden)[..., None]
    found = hidden[:, 0] if first else (hidden * mask).sum(dim=1) / mask.sum(dim=1)
    return nn.functional.normalize(found.float(), dim=-1)


def outputs(model: nn.Module, batch: Batch) -> Tensor:
    """The logits in float32. Raises NumericalError where they are NaN."""
    logits: Tensor = model(**{name: value for name, value in batch.items() if name != "labels"}).logits.float()
    if torch.isnan(logits).any():
        raise NumericalError("the model's outputs are NaN: check its weights")
    return logits


def regression_task(
    examples: Sequence[Example], model: Any, tokenizer: PreTrainedTokenizerBase, *, batch: int = 32, length: int = 256
) -> Regression:
    """Batches of texts with a number each. Raises InputError on a label that is none, and on two outputs or more."""
    if model.config.num_labels != 1:
        raise InputError(f"regression is judged on one output a text, and the model has {model.config.num_labels}")
    numbers = torch.tensor([_number(example.label) for example in examples])
    batches = text_batches(examples, model, tokenizer, batch=batch, length=length)
    return Regression([made | {"labels": numbers[chosen]} for chosen, made in batches])


def labels_task(
    examples: Sequence[Example], model: Any, tokenizer: PreTrainedTokenizerBase, *, batch: int = 32, length: int = 256
) -> SeveralLabels:
    """Batches of texts with any number of labels each: names with `|` between. Raises InputError on unknown ones."""
    rows = torch.zeros(len(examples), model.config.num_labels)
    for row, example in enumerate(examples):
        if example.label is None:
            raise InputError("a text has no label: give each a list of labels, which may be empty")
        names = [name for name in example.label.split("|") if name]
        rows[row, [class_number(name, model.config) for name in names]] = 1.0
    batches = text_batches(examples, model, tokenizer, batch=batch, length=length)
    return SeveralLabels([made | {"labels": rows[chosen]} for chosen, made in batches])


def embedding_task(
    examples: Sequence[Example],
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch: int = 32,
    length: int = 256,
    first: bool = False,
) -> Embedding:
    """Batches of texts, each with the embedding that the model gives it now."""
    made = [one for _, one in text_batches(examples, model, tokenizer, batch=batch, length=length)]
    with torch.no_grad():
        return Embedding([one | {"targets": pooled(model, one, first=first)} for one in made], first=first)


def _number(label: str | None) -> float:
    try:
        value = float(label or "")
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise InputError(f"label {label!r} is no number, and the model puts out one")
    return value

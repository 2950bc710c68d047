"""Task: labelled batches, their loss, and a score that is a function of sums over samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateur.core.seed import generator
from secateur.score.gates import Batch

__all__ = [
    "Interval",
    "Share",
    "Task",
    "count_samples",
    "f1",
    "pad_batches",
    "pad_rows",
    "paired_bootstrap",
    "score",
    "segments",
]

Parts = Float[np.ndarray, "samples parts"]


@runtime_checkable
class Task(Protocol):
    """What a model is judged by."""

    @property
    def metric(self) -> str:
        """The name of the score."""
        ...

    @property
    def higher(self) -> bool:
        """Whether more of it is better."""
        ...

    @property
    def batches(self) -> Sequence[Batch]:
        """What the model is called with, labels included."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss of a batch, summed over its samples."""
        ...

    def parts(self, model: nn.Module) -> Parts:
        """What every sample adds to the score, `[samples, parts]`."""
        ...

    def value(self, total: Float[np.ndarray, "*runs parts"]) -> Float[np.ndarray, "*runs"]:
        """The score of parts summed over samples."""
        ...


@dataclass(frozen=True, eq=False)
class Share:
    """What tasks have in common whose score is one sum over another, such as right answers over all."""

    batches: Sequence[Batch]
    metric: str = "accuracy"
    higher: bool = True

    def value(self, total: Float[np.ndarray, "*runs 2"]) -> Float[np.ndarray, "*runs"]:
        """The first sum over the second."""
        return np.asarray(total[..., 0] / total[..., 1])


class Interval(NamedTuple):
    """A change of score, the ends of its interval, and the two-sided probability of one as large by chance."""

    change: float
    low: float
    high: float
    p: float


def paired_bootstrap(
    task: Task, before: Parts, after: Parts, *, rounds: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """The change of score from `before` to `after` when the same samples are drawn again with replacement."""
    count = len(before)
    drawn = torch.randint(count, (rounds, count), generator=generator(seed, "bootstrap"))  # [rounds, samples]
    draws = (
        # How often each sample was drawn: a product with the parts then sums every round at once.
        torch.zeros(rounds, count, dtype=torch.float64).scatter_add_(1, drawn, torch.ones_like(drawn).double()).numpy()
    )
    changes = task.value(draws @ after) - task.value(draws @ before)  # [rounds]
    low, high = np.quantile(changes, [(1 - level) / 2, (1 + level) / 2])
    change = float(task.value(after.sum(0)) - task.value(before.sum(0)))
    # P is never 0: a thousand rounds cannot tell 0 from one in a thousand.
    tail = min(np.mean(changes <= 0), np.mean(changes >= 0))
    return Interval(change, float(low), float(high), float(min(1.0, 2 * max(tail, 1 / rounds))))


def pad_batches(rows: Sequence[Sequence[int]], size: int, pad: int) -> list[tuple[list[int], Tensor, Tensor]]:
    """Rows of ids in batches of like length: which rows, ids `[batch, seq]` padded at the right, and their mask."""
    # Longest first: memory runs out at once, or not.
    order = sorted(range(len(rows)), key=lambda row: (-len(rows[row]), row))
    batches = []
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        batches.append((chosen, *pad_rows([rows[row] for row in chosen], pad)))
    return batches


def pad_rows(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Rows padded at the right to the longest, `[rows, seq]`, and their mask."""
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
    ids = torch.full(mask.shape, pad)
    ids[mask] = torch.tensor([token for row in rows for token in row])
    return ids, mask.long()


def segments(read: Mapping[str, Any], chosen: Sequence[int], mask: Tensor) -> dict[str, Tensor]:
    """Which tokens of these rows are a second text's, `[rows, seq]`, where the tokenizer tells."""
    if "token_type_ids" not in read:
        return {}
    kinds = torch.zeros_like(mask)
    kinds[mask.bool()] = torch.tensor([kind for row in chosen for kind in read["token_type_ids"][row]])
    return {"token_type_ids": kinds}


def count_samples(task: Task) -> int:
    """How many samples a task holds: texts, windows or sentence pairs."""
    return sum(len(next(iter(batch.values()))) for batch in task.batches)


def f1(total: Float[np.ndarray, "*runs 2"]) -> Float[np.ndarray, "*runs"]:
    """F1 of what was found, and half of all that was said or true; 1 where there was nothing of either.

    Formula: F1 = 2 TP / (2 TP + FP + FN)
    """
    found, half = total[..., 0], total[..., 1]
    return np.where(half > 0, found / np.where(half > 0, half, 1.0), 1.0)


def score(task: Task, model: nn.Module) -> float:
    """The score of a model over all samples."""
    return float(task.value(task.parts(model).sum(0)))

"""score_heads(task_model, task, scoring): one number for every head, low = remove first."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.evaluate.choices import HEAD_SCORES
from secateur.heads.task_model import TaskModel
from secateur.score.gates import LEVELS, Batch, gate_gradients, gated
from secateur.score.heads import head_magnitude, head_noise, normalise_heads
from secateur.tasks.task import Task, score

__all__ = ["SCORES", "Progress", "Scoring", "score_heads"]

SCORES = tuple(HEAD_SCORES)
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """score: gate gradients, size of output columns, chance (by seed), or the score lost without the head.

    level: where the absolute value of a gate's derivative is taken. normalise: divide
    every layer's importances by their norm.
    """

    score: str = "importance"
    level: str = "token"
    normalise: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse names nobody knows."""
        for name, known in (("score", SCORES), ("level", LEVELS)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} {getattr(self, name)!r} is unknown: use {', '.join(known)}")


def score_heads(
    task_model: TaskModel,
    task: Task,
    scoring: Scoring,
    keep: Sequence[Tensor] | None = None,
    *,
    progress: Progress | None = None,
) -> list[Tensor]:
    """Scores `[heads]` of every attention, with heads that are not in `keep` gone.

    Formula: S_h = s(gates) - s(gates with gate_h = 0), by --score ablation [Michel et al. 2019, section 3.2]
    """
    keep = task_model.keep if keep is None else keep
    if scoring.score == "random":
        return head_noise(task_model.layouts, scoring.seed)
    if scoring.score == "magnitude":
        return [head_magnitude(attention.output.weight, attention.width) for attention in task_model.attentions]
    if scoring.score == "ablation":
        return _lost(task_model, task, keep, progress or (lambda done, total: None))
    batches = _told(task.batches, progress)
    gates = [kept.float() for kept in keep]
    scores = gate_gradients(
        task_model.model, task_model.attentions, batches, task.loss, gates=gates, level=scoring.level
    )
    return normalise_heads(scores) if scoring.normalise else scores


def _told(batches: Sequence[Batch], progress: Progress | None) -> Iterator[Batch]:
    for done, batch in enumerate(batches):
        if progress is not None:
            progress(done, len(batches))
        yield batch


def _lost(task_model: TaskModel, task: Task, keep: Sequence[Tensor], tell: Progress) -> list[Tensor]:
    gates = [kept.double() for kept in keep]  # heads removed in earlier rounds stay off
    sign = 1.0 if task.higher else -1.0
    with gated(task_model.attentions, gates):
        whole = score(task, task_model.model)
    lost = [torch.zeros(len(kept), dtype=torch.float64) for kept in keep]
    places = [(place, head) for place, kept in enumerate(keep) for head in range(len(kept)) if kept[head]]
    for done, (place, head) in enumerate(places):
        tell(done, len(places))
        without = [gate.clone() for gate in gates]
        without[place][head] = 0
        with gated(task_model.attentions, without):
            lost[place][head] = sign * (whole - score(task, task_model.model))
    return lost

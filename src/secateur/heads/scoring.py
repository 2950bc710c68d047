"""score_heads(subject, task, scoring): one number for every head, low = remove first."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.evaluate.task import Task, score
from secateur.heads.subject import Subject
from secateur.score.gates import LEVELS, Batch, gate_gradients, gated
from secateur.score.heads import head_magnitude, head_noise, normalise_heads

__all__ = ["SCORES", "Progress", "Scoring", "score_heads"]

SCORES = ("importance", "magnitude", "random", "ablation")
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """by: gate gradients, size of output columns, chance (by seed), or the score lost without the head.

    level: where the absolute value of a gate's derivative is taken. normalise: divide
    every layer's importances by their norm.
    """

    by: str = "importance"
    level: str = "token"
    normalise: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse names nobody knows."""
        for name, known in (("by", SCORES), ("level", LEVELS)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} {getattr(self, name)!r} is unknown: use {', '.join(known)}")


def score_heads(
    subject: Subject,
    task: Task,
    scoring: Scoring,
    live: Sequence[Tensor] | None = None,
    *,
    progress: Progress | None = None,
) -> list[Tensor]:
    """Scores `[heads]` of every attention, with heads that are not live gone."""
    live = subject.live if live is None else live
    if scoring.by == "random":
        return head_noise(subject.layouts, scoring.seed)
    if scoring.by == "magnitude":
        return [head_magnitude(one.output.weight, one.width) for one in subject.attentions]
    if scoring.by == "ablation":
        return _lost(subject, task, live, progress or (lambda done, total: None))
    batches = _told(task.batches, progress)
    gates = [keep.float() for keep in live]
    found = gate_gradients(subject.model, subject.attentions, batches, task.loss, gates=gates, level=scoring.level)
    return normalise_heads(found) if scoring.normalise else found


def _told(batches: Sequence[Batch], progress: Progress | None) -> Iterator[Batch]:
    for done, batch in enumerate(batches):
        if progress is not None:
            progress(done, len(batches))
        yield batch


def _lost(subject: Subject, task: Task, live: Sequence[Tensor], tell: Progress) -> list[Tensor]:
    gates = [keep.double() for keep in live]
    sign = 1.0 if task.higher else -1.0
    with gated(subject.attentions, gates):
        whole = score(task, subject.model)
    lost = [torch.zeros(len(keep), dtype=torch.float64) for keep in live]
    places = [(place, head) for place, keep in enumerate(live) for head in range(len(keep)) if keep[head]]
    for done, (place, head) in enumerate(places):
        tell(done, len(places))
        without = [gate.clone() for gate in gates]
        without[place][head] = 0
        with gated(subject.attentions, without):
            lost[place][head] = sign * (whole - score(task, subject.model))
    return lost

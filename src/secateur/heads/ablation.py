"""ablate(task_model, task): the score without each head, and with one head alone in its layer; with intervals."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from secateur.heads.scoring import Progress
from secateur.heads.task_model import TaskModel
from secateur.score.gates import gated
from secateur.tasks.task import Interval, Task, paired_bootstrap

__all__ = ["Ablation", "ablate", "keep_one"]


class Ablation(NamedTuple):
    """The score of the whole model and, for every attention and head, what changes."""

    score: float
    changes: list[list[Interval]]

    @property
    def effects(self) -> list[Tensor]:
        """The changes alone, `[heads]` of every attention."""
        return [torch.tensor([interval.change for interval in row]) for row in self.changes]

    def best(self, *, higher: bool) -> list[tuple[int, Interval]]:
        """Of every attention that has heads, the head whose change is best; ties by position."""
        sign = 1.0 if higher else -1.0
        return [max(enumerate(row), key=lambda pair: (sign * pair[1].change, -pair[0])) for row in self.changes if row]


def ablate(task_model: TaskModel, task: Task, *, seed: int = 0, progress: Progress | None = None) -> Ablation:
    """Remove one head at a time: the change of score, its bootstrap interval and p (Michel et al. 2019, 3.2).

    Formula: d_h = s(gate_h = 0) - s(all gates 1) [Michel et al. 2019, section 3.2]
    """
    return _changes(task_model, task, _without, seed, progress)


def keep_one(task_model: TaskModel, task: Task, *, seed: int = 0, progress: Progress | None = None) -> Ablation:
    """Keep one head alone in its layer, all other layers whole (Michel et al. 2019, 3.3).

    Formula: d_h = s(gate_h' = 0 for every other h' of the layer) - s(all gates 1) [Michel et al. 2019, section 3.3]
    """
    return _changes(task_model, task, _alone, seed, progress)


def _without(gate: Tensor, head: int) -> Tensor:
    return gate.scatter(0, torch.tensor([head]), 0.0)  # [heads]


def _alone(gate: Tensor, head: int) -> Tensor:
    return torch.zeros_like(gate).scatter(0, torch.tensor([head]), 1.0)


def _changes(
    task_model: TaskModel, task: Task, gate_of: Callable[[Tensor, int], Tensor], seed: int, progress: Progress | None
) -> Ablation:
    ones = [kept.float() for kept in task_model.keep]
    before = task.parts(task_model.model)  # once: every head is compared with the same whole model
    total, done = sum(map(len, ones)), 0
    changes: list[list[Interval]] = []
    for place, gate in enumerate(ones):
        row = []
        for head in range(len(gate)):
            if progress is not None:
                progress(done, total)
            with gated(task_model.attentions, [*ones[:place], gate_of(gate, head), *ones[place + 1 :]]):
                row.append(paired_bootstrap(task, before, task.parts(task_model.model), seed=seed))
            done += 1
        changes.append(row)
    return Ablation(float(task.value(before.sum(0))), changes)

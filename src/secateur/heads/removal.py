"""plan_removal(task_model, task, ...): which heads stay at each share removed; one-shot, re-estimated, or exact."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import comb

import torch
from torch import Tensor

from secateur.core.cut import Cut
from secateur.core.errors import InputError, RatioError
from secateur.heads.scoring import Progress, Scoring, score_heads
from secateur.heads.task_model import TaskModel
from secateur.score.gates import gated
from secateur.score.heads import remove_heads
from secateur.tasks.task import Task

__all__ = ["RemovalOptions", "exact_removal", "plan_removal", "removal_cut"]

_MOST = 100_000  # models an exact search may judge


@dataclass(frozen=True, kw_only=True)
class RemovalOptions:
    """reestimate: score again at every step, with the heads removed so far gone.

    exact: judge every choice by the loss instead, for small models; steps are not nested.
    kinds: attentions that may lose heads (encoder, decoder, cross), none named means
    all. min_heads: heads every attention keeps.
    """

    scoring: Scoring = field(default_factory=Scoring)
    reestimate: bool = False
    exact: bool = False
    kinds: tuple[str, ...] = ()
    min_heads: int = 0


def plan_removal(
    task_model: TaskModel,
    task: Task,
    ratios: Sequence[float],
    plan: RemovalOptions,
    *,
    progress: Progress | None = None,
) -> list[list[Tensor]]:
    """Masks of the heads that stay, `[heads]` of every attention, at each ratio of the chosen kinds' heads; nested.

    Formula: remove floor(r H) heads, the lowest normalised S_h first [Michel et al. 2019, section 4]

    Raises RatioError on ratios outside 0..1 or falling, InputError when `min_heads` forbids one, or no attention can
    lose heads.
    """
    if not all(0 <= ratio <= 1 for ratio in ratios) or list(ratios) != sorted(ratios):
        raise RatioError(f"ratios {list(ratios)} should rise from 0 to 1")
    chosen = [place for place, wanted in enumerate(task_model.of_kinds(plan.kinds)) if wanted]
    attentions = [task_model.attentions[place] for place in chosen]
    if attentions and all(one.no_heads for one in attentions):
        attentions[0].unit("heads")  # raises, with the reason
    every = task_model.layouts
    layouts = [every[place] for place in chosen]
    total = sum(layout.heads for layout in layouts)
    counts = [int(ratio * total + 1e-9) for ratio in ratios]  # 1e-9: 0.3 * 10 is just below 3
    if plan.exact:
        return [exact_removal(task_model, task, count, kinds=plan.kinds, progress=progress) for count in counts]
    keep = task_model.keep
    rounds = len(counts) if plan.reestimate else 1
    scores = score_heads(task_model, task, plan.scoring, keep, progress=_step(progress, 0, rounds))
    steps = []
    for number, count in enumerate(counts):
        if number and plan.reestimate:
            scores = score_heads(task_model, task, plan.scoring, keep, progress=_step(progress, number, len(counts)))
        part = [keep[place] for place in chosen]
        after = remove_heads([scores[place] for place in chosen], layouts, part, count, min_heads=plan.min_heads)
        keep = list(keep)
        for place, kept in zip(chosen, after, strict=True):
            keep[place] = kept
        steps.append(keep)
    return steps


def _step(progress: Progress | None, number: int, rounds: int) -> Progress | None:
    """Progress of one of equal rounds as progress of all of them."""
    return None if progress is None else lambda done, total: progress(number * total + done, rounds * total)


def exact_removal(
    task_model: TaskModel, task: Task, count: int, *, kinds: Sequence[str] = (), progress: Progress | None = None
) -> list[Tensor]:
    """The `count` heads whose removal raises the loss least, by judging every choice; for small models.

    Formula: min_{|R| = count} L(gate_h = 0 for h in R) [exhaustive search]

    Raises InputError when there are too many choices.
    """
    wanted, layouts = task_model.of_kinds(kinds), task_model.layouts
    sizes = [layout.heads for layout in layouts]
    ends = torch.tensor(sizes).cumsum(0).tolist()
    units = [
        [start + head for head in group]
        for start, layout, kept, use in zip([0, *ends], layouts, task_model.keep, wanted, strict=False)
        if use
        for _, group in layout.units(torch.zeros(layout.heads), kept)
    ]
    size = len(units[0]) if units else 1
    picked = count // size
    choices = comb(len(units), picked)
    if choices > _MOST or count % size:
        raise InputError(
            f"an exact search would judge {choices:,} choices of {picked} of {len(units)} units of {size} heads, "
            f"at most {_MOST:,} are tried: remove fewer, a multiple of {size}, or take the greedy order"
        )
    best: tuple[float, list[Tensor]] = (float("inf"), task_model.keep)
    for number, choice in enumerate(combinations(units, picked)):
        if progress is not None:
            progress(number, choices)
        flat = torch.ones(ends[-1], dtype=torch.bool)  # [heads of all attentions]
        flat[[head for group in choice for head in group]] = False
        keep = list(flat.split(sizes))
        loss = _loss(task_model, task, keep)
        best = min(best, (loss, keep), key=lambda pair: pair[0])
    return best[1]


@torch.no_grad()
def _loss(task_model: TaskModel, task: Task, keep: Sequence[Tensor]) -> float:
    with gated(task_model.attentions, [kept.float() for kept in keep]):
        return sum(float(task.loss(task_model.model, batch)) for batch in task.batches)


def removal_cut(task_model: TaskModel, keep: Sequence[Tensor]) -> Cut:
    """The units kept of every attention that loses some, by the names of its sites."""
    units = {}
    for attention, layout, kept in zip(task_model.attentions, task_model.layouts, keep, strict=True):
        if not bool(kept.all()):
            attention.unit("heads")  # raises where it has none to lose
            # [groups]: the heads of a KV group go together
            left = kept.reshape(-1, layout.shared)[:, 0] if layout.unit == "kv_groups" else kept
            units[f"{attention.name}.{layout.unit}"] = tuple(left.nonzero().flatten().tolist())
    return Cut(units)

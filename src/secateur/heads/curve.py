"""head_curve(...): the score against the share of heads removed, one line an order of removal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.heads.removal import RemovalOptions, plan_removal
from secateur.heads.scoring import Progress
from secateur.heads.task_model import TaskModel
from secateur.score.gates import gated
from secateur.tasks.task import Task, paired_bootstrap

__all__ = ["Curve", "head_curve"]


@dataclass(frozen=True)
class Curve:
    """ratios: shares of the chosen heads. lines: scores at each, by the name of the order; low, high: 95% interval."""

    metric: str
    higher: bool
    dense: float
    ratios: list[float]
    lines: dict[str, list[float]]
    low: dict[str, list[float]]
    high: dict[str, list[float]]

    def free(self, loss: float = 0.01) -> dict[str, float]:
        """The largest share of every line before its score is worse than the dense one by more than `loss`.

        Formula: max r with s(r') >= s(0) - loss for every r' <= r [ours]

        loss is in the metric's own unit where more is better, else a share of the dense score.
        """
        bound = self.dense - loss if self.higher else self.dense * (1 + loss)
        shares = {}
        for name, scores in self.lines.items():
            fine = [value >= bound if self.higher else value <= bound for value in scores]
            # Not the last good one: a lucky late share does not count.
            first = fine.index(False) if False in fine else len(fine)
            shares[name] = self.ratios[first - 1] if first else 0.0
        return shares

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {**vars(self), "free_within_1_percent": self.free()}


def head_curve(
    task_model: TaskModel,
    data: Task,
    test: Task,
    ratios: Sequence[float],
    orders: Mapping[str, RemovalOptions],
    *,
    progress: Progress | None = None,
) -> Curve:
    """Remove heads in every order scored on `data`, and judge what is left on `test`."""
    dense = test.parts(task_model.model)
    lines: dict[str, list[float]] = {}
    low: dict[str, list[float]] = {}
    high: dict[str, list[float]] = {}
    whole = float(test.value(dense.sum(0)))
    done, total = 0, len(orders) * len(ratios)
    for name, plan in orders.items():
        lines[name], low[name], high[name] = [], [], []
        for keep in plan_removal(task_model, data, ratios, plan):
            if progress is not None:
                progress(done, total)
            with gated(task_model.attentions, [kept.float() for kept in keep]):
                parts = test.parts(task_model.model)
            change = paired_bootstrap(test, dense, parts)
            lines[name].append(whole + change.change)
            low[name].append(whole + change.low)
            high[name].append(whole + change.high)
            done += 1
    return Curve(test.metric, test.higher, whole, list(ratios), lines, low, high)

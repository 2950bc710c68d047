"""Loop: steps on an objective by optimizers with schedules, that can stop anywhere and go on with the same bits."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from secateur.core.errors import NumericalError

__all__ = ["Loop", "Objective", "Schedule", "Scheduled", "Stateful", "adamw"]

Saved = tuple[dict[str, Tensor], list[float]]
_CLIP = 1.0  # norm of all gradients together


@runtime_checkable
class Objective(Protocol):
    """What is made small: the loss of one batch, such as token ids `[batch, length]`, or pictures and classes."""

    def __call__(self, batch: Any, /) -> Tensor:
        """The loss, a scalar that gradients flow back from."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """An objective with tensors of its own that change from step to step, such as statistics of batch norms."""

    def after(self, step: int) -> None:
        """Whatever follows a step of the optimizers."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Its tensors by name; `load_state` takes them up."""
        ...

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""
        ...


@dataclass(frozen=True)
class Schedule:
    """The learning rate of every step: up over the first tenth, then down as a cosine."""

    steps: int
    peak: float

    def rate(self, step: int) -> float:
        """The rate of a step, from 0."""
        warm = max(1, self.steps // 10)
        if step < warm:
            return self.peak * (step + 1) / warm
        return self.peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))


class Scheduled(NamedTuple):
    """An optimizer, its learning rate at every step, and the largest norm of its gradients; None for any."""

    optimizer: torch.optim.Optimizer
    rate: Callable[[int], float]
    clip: float | None = None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What it trains."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


def adamw(parameters: Sequence[nn.Parameter], schedule: Schedule) -> Scheduled:
    """AdamW without weight decay, gradients clipped to norm 1."""
    return Scheduled(torch.optim.AdamW(list(parameters), weight_decay=0.0), schedule.rate, _CLIP)


class Loop:
    """Trains the parameters of some optimizers on an objective; everything else stays as it is."""

    def __init__(self, objective: Objective, *optimizers: Scheduled) -> None:
        """Let the optimizers' parameters take gradients."""
        self.objective = objective
        self.optimizers = optimizers
        self.parameters = [parameter for scheduled in optimizers for parameter in scheduled.parameters]
        self.losses: list[float] = []
        for parameter in self.parameters:
            parameter.requires_grad_(True)

    def step(self, batch: Any) -> float:
        """One step on a batch; returns the loss. Raises NumericalError when it is not finite."""
        number = len(self.losses)
        loss = self.objective(batch)
        if not torch.isfinite(loss):
            raise NumericalError(f"the loss is {loss.item()} at step {number}: use a smaller rate")
        for optimizer, _, _ in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        _average(self.parameters)
        for scheduled in self.optimizers:
            for group in scheduled.optimizer.param_groups:
                group["lr"] = scheduled.rate(number)
            if scheduled.clip is not None:
                nn.utils.clip_grad_norm_(scheduled.parameters, scheduled.clip)
            scheduled.optimizer.step()
        if isinstance(self.objective, Stateful):
            self.objective.after(number)
        self.losses.append(float(loss.detach()))
        return self.losses[-1]

    def run(
        self,
        batches: Sequence[Any],
        *,
        saved: Saved | None = None,
        save: Callable[[dict[str, Tensor], list[float]], None],
        every: int,
        progress: Callable[[int, int], None],
    ) -> None:
        """Every step that is not done, one a batch; `save` gets the state every so many steps.

        saved: the state and losses of an earlier run, which this one goes on from.
        """
        if saved is not None:
            self.load_state(*saved)
        for number in range(len(self.losses), len(batches)):
            progress(number, len(batches))
            self.step(batches[number])
            if len(self.losses) % every == 0:
                save(self.state(), self.losses)
        progress(len(batches), len(batches))

    def state(self) -> dict[str, Tensor]:
        """Everything but the losses that a later run needs to go on with the same bits."""
        tensors = {f"{index}:value": parameter.detach() for index, parameter in enumerate(self.parameters)}
        for number, scheduled in enumerate(self.optimizers):
            for index, entry in scheduled.optimizer.state_dict()["state"].items():
                held = {key: value for key, value in entry.items() if isinstance(value, Tensor)}
                tensors |= {f"optimizer:{number}:{index}:{key}": value for key, value in held.items()}
        if isinstance(self.objective, Stateful):
            tensors |= {f"objective:{name}": value for name, value in self.objective.state().items()}
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor], losses: Sequence[float]) -> None:
        """Take up what `state` gave, and the losses of the steps before."""
        self.losses = list(losses)
        for index, parameter in enumerate(self.parameters):
            parameter.data.copy_(tensors[f"{index}:value"])
        for number, (optimizer, _, _) in enumerate(self.optimizers):
            entries: dict[int, dict[str, Tensor]] = {}
            for name, tensor in _under(tensors, f"optimizer:{number}:").items():
                place, _, key = name.partition(":")
                entries.setdefault(int(place), {})[key] = tensor.clone()
            optimizer.load_state_dict({**optimizer.state_dict(), "state": entries})
        if isinstance(self.objective, Stateful):
            self.objective.load_state(_under(tensors, "objective:"))


def _under(tensors: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def _average(parameters: Sequence[nn.Parameter]) -> None:
    """Give every process of a torchrun the mean of all gradients."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for parameter in parameters:
            if parameter.grad is None:  # every process must take part in every exchange
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= torch.distributed.get_world_size()

"""Loop: gradient descent on an objective that can stop anywhere and resume with the same bits."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from secateur.core.errors import NumericalError
from secateur.events import report
from secateur.machine.ranks import place

__all__ = ["Batches", "Cosine", "Descent", "Linear", "Loop", "Objective", "Schedule", "Stateful", "Store", "Stream"]

Log = dict[str, list[float]]


@runtime_checkable
class Objective(Protocol):
    """What is made small.

    A step has one backward pass. Where a loss must reach some parameters only, take that gradient inside with
    `torch.autograd.grad` and add `(gradient.detach() * parameter).sum()` to the loss.
    """

    def __call__(self, batch: Any, step: int, /) -> Tensor | Mapping[str, Tensor]:
        """The loss of one batch, a scalar; or named scalars to log, of which `loss` is made small."""
        ...


@runtime_checkable
class Schedule(Protocol):
    """The learning rate of every step."""

    def rate(self, step: int, peak: float) -> float:
        """The rate of a step, from 0, of a group of parameters whose highest rate is `peak`."""
        ...


@runtime_checkable
class Batches(Protocol):
    """Batches by number; the loop asks for each once, in order."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __getitem__(self, number: int, /) -> Any:
        """One batch."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """What changes while a loop runs: a random stream, an order of examples, running statistics."""

    def state(self) -> dict[str, Tensor]:
        """All that a later run needs to go on with the same bits."""
        ...

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state` gave."""
        ...


@runtime_checkable
class Store(Protocol):
    """Where the state of a loop is kept; `storage.run_folder.RunFolder` is one."""

    def load_state(self) -> tuple[dict[str, Tensor], Log] | None:
        """The last state and the log up to it, or None before the first."""
        ...

    def save_state(self, tensors: dict[str, Tensor], log: Log) -> None:
        """Keep a state and the log up to it."""
        ...


@dataclass(frozen=True)
class Cosine:
    """Up over the first tenth of the steps, then down as a cosine."""

    steps: int

    def rate(self, step: int, peak: float) -> float:
        """The rate of a step, from 0."""
        warm = max(1, self.steps // 10)
        if step < warm:
            return peak * (step + 1) / warm
        return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))


@dataclass(frozen=True)
class Linear:
    """Up from 0 over the first tenth of the steps, then down to 0, in straight lines."""

    steps: int

    def rate(self, step: int, peak: float) -> float:
        """The rate of a step, from 0."""
        warm = math.ceil(self.steps / 10)
        if step < warm:
            return peak * (step / warm)
        return peak * ((self.steps - step) / max(1, self.steps - warm))


@dataclass(frozen=True)
class Descent:
    """An optimizer and its schedule; the rate that a group of the optimizer was made with is the group's peak."""

    optimizer: torch.optim.Optimizer
    schedule: Schedule

    def step(self, number: int) -> None:
        """One step at the scheduled rate."""
        for group in self.optimizer.param_groups:
            peak = group.setdefault("initial_lr", group["lr"])  # the name that torch's own schedulers give it
            group["lr"] = self.schedule.rate(number, peak)
        self.optimizer.step()


class Stream:
    """A random generator whose position is saved."""

    def __init__(self, generator: torch.Generator) -> None:
        """Watch a generator that an objective draws from."""
        self.generator = generator

    def state(self) -> dict[str, Tensor]:
        """Its position."""
        return {"position": self.generator.get_state()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Move it to a position."""
        self.generator.set_state(tensors["position"])


class Loop:
    """Trains parameters on an objective; everything else stays as it is."""

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        objective: Objective,
        descents: Sequence[Descent],
        *,
        others: Mapping[str, Stateful] | None = None,
        accumulate: int = 1,
        clip: float | None = 1.0,
    ) -> None:
        """Let these parameters take gradients.

        descents: one or more, which share the parameters out. others: what else a state holds, by name.
        accumulate: batches whose mean gradient makes a step. clip: norm of all gradients together, or None.
        """
        self.parameters = list(parameters)
        self.objective, self.descents = objective, list(descents)
        self.others, self.accumulate, self.clip = dict(others or {}), accumulate, clip
        self.log: Log = {"loss": []}
        for parameter in self.parameters:
            parameter.requires_grad_(True)

    @property
    def losses(self) -> list[float]:
        """The loss of every step so far."""
        return self.log["loss"]

    def step(self, *batches: Any) -> float:
        """One step on the mean of some batches; returns the loss. Raises NumericalError when it is not finite."""
        number = len(self.losses)
        totals: dict[str, float] = defaultdict(float)
        for parameter in self.parameters:
            parameter.grad = None  # not zeros: an optimizer passes over what got no gradient
        for batch in batches:
            told = self.objective(batch, number)
            values = {"loss": told} if isinstance(told, Tensor) else told
            loss = values["loss"] / len(batches)
            if not torch.isfinite(loss):
                raise NumericalError(f"the loss is {loss.item()} at step {number}: use a smaller rate")
            torch.autograd.backward(loss)
            for name, value in values.items():
                totals[name] += float(value.detach()) / len(batches)
        _average(self.parameters)
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        for descent in self.descents:
            descent.step(number)
        for name, total in totals.items():
            self.log.setdefault(name, []).append(total)
        return totals["loss"]

    def run(
        self, batches: Batches, *, store: Store, every: int, progress: Callable[[int, int], None] = lambda *_: None
    ) -> None:
        """Every step that is not done; a store that holds a state is resumed from, and gets one every so many steps."""
        saved = store.load_state()
        # Batches are asked for by number, so the step is the position in the data.
        if saved is not None:
            self.load_state(*saved)
        steps = math.ceil(len(batches) / self.accumulate)
        for number in range(len(self.losses), steps):
            progress(number, steps)
            first = number * self.accumulate
            loss = self.step(*(batches[place] for place in range(first, min(first + self.accumulate, len(batches)))))
            report("step %d of %d: loss %.4g", number + 1, steps, loss, step=number + 1, loss=loss)
            if len(self.losses) % every == 0:
                store.save_state(self.state(), self.log)
        progress(steps, steps)

    def state(self) -> dict[str, Tensor]:
        """Everything but the log that a later run needs to go on with the same bits."""
        tensors: dict[str, Tensor] = {}
        for index, parameter in enumerate(self.parameters):
            tensors[f"{index}:value"] = parameter.detach()
            for descent in self.descents:
                entries = descent.optimizer.state.get(parameter, {})
                tensors |= {f"{index}:{key}": value for key, value in entries.items()}
        for name, other in self.others.items():
            tensors |= {f"{name}:{key}": value for key, value in other.state().items()}
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor], log: Mapping[str, Sequence[float]]) -> None:
        """Restore what `state` gave, and the log of the steps before."""
        self.log = {name: list(values) for name, values in log.items()}
        entries: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in tensors.items():
            owner, _, key = name.partition(":")
            entries[owner][key] = tensor.clone()
        for index, parameter in enumerate(self.parameters):
            parameter.data.copy_(entries[str(index)].pop("value"))
        for descent in self.descents:
            self._load_optimizer(descent.optimizer, entries)
        for name, other in self.others.items():
            other.load_state(entries[name])

    def _load_optimizer(self, optimizer: torch.optim.Optimizer, entries: Mapping[str, dict[str, Tensor]]) -> None:
        names = {id(parameter): str(index) for index, parameter in enumerate(self.parameters)}
        own = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
        # an optimizer counts its parameters group after group, which need not be the loop's order
        state = {place: entries[name] for place, name in enumerate(own) if entries[name]}
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _average(parameters: Sequence[nn.Parameter]) -> None:
    """Give every process of a torchrun the mean of all gradients."""
    _, count = place()
    for parameter in parameters if count > 1 else ():
        if parameter.grad is None:  # every process must take part in every exchange
            parameter.grad = torch.zeros_like(parameter)
        torch.distributed.all_reduce(parameter.grad)
        parameter.grad /= count

"""Loop: steps of AdamW on an objective, with a schedule, that can stop anywhere and go on with the same bits."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from secateur.core.errors import NumericalError
from secateur.core.shapes import TokenIds

__all__ = ["Loop", "Objective", "Schedule"]

Saved = tuple[dict[str, Tensor], list[float]]
_CLIP = 1.0  # norm of all gradients together


@runtime_checkable
class Objective(Protocol):
    """What is made small: the loss of one batch of token ids `[batch, length]`."""

    def __call__(self, ids: TokenIds) -> Tensor:
        """The loss, a scalar that gradients flow back from."""
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


class Loop:
    """Trains some parameters on an objective; everything else stays as it is."""

    def __init__(self, parameters: Sequence[nn.Parameter], objective: Objective, schedule: Schedule) -> None:
        """Let these parameters take gradients."""
        self.parameters = list(parameters)
        self.objective = objective
        self.schedule = schedule
        self.losses: list[float] = []
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(self.parameters, weight_decay=0.0)

    def step(self, ids: TokenIds) -> float:
        """One step on `[batch, length]`; returns the loss. Raises NumericalError when it is not finite."""
        number = len(self.losses)
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(number)
        loss = self.objective(ids)
        if not torch.isfinite(loss):
            raise NumericalError(f"the loss is {loss.item()} at step {number}: use a smaller rate")
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.parameters, _CLIP)
        self.optimizer.step()
        self.losses.append(float(loss.detach()))
        return self.losses[-1]

    def run(
        self,
        batches: Sequence[TokenIds],
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
        for index, entry in self.optimizer.state_dict()["state"].items():
            tensors |= {f"{index}:{key}": value for key, value in entry.items()}
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor], losses: Sequence[float]) -> None:
        """Take up what `state` gave, and the losses of the steps before."""
        self.losses = list(losses)
        entries: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            index, _, key = name.partition(":")
            if key == "value":
                self.parameters[int(index)].data.copy_(tensor)
            else:
                entries.setdefault(int(index), {})[key] = tensor.clone()
        document = self.optimizer.state_dict()
        self.optimizer.load_state_dict({**document, "state": entries})

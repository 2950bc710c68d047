"""reconstruct_(block, ...): train what a pruned block has kept until it puts out what the dense block did."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.adapt.layer import Layer
from secateur.core.errors import InputError
from secateur.core.seed import generator
from secateur.core.shapes import Hidden, Keep
from secateur.machine.ranks import mean
from secateur.train.loop import Batches, Cosine, Descent, Loop

__all__ = ["Reconstruction", "block_error", "fit_", "reconstruct_"]

_HELD = 0.1  # share of the batches that judge
_LOOKS = 5
Call = Callable[[Hidden], Hidden]


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """How long each block is trained after its layers were pruned. steps: batches; rate: the highest, of Adam."""

    steps: int = 50
    rate: float = 0.0003

    def __post_init__(self) -> None:
        """Refuse fields outside their range."""
        if self.steps < 1 or not 0 < self.rate <= 1:
            raise InputError(f"reconstruct needs steps of at least 1 and a rate in 0..1, got {self.steps}, {self.rate}")


def block_error(made: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
    """Squared distance of outputs, relative to what the block adds to its inputs."""
    wanted = outputs.float()
    return (made.float() - wanted).square().sum() / (wanted - inputs.float()).square().sum().clamp_min(1e-20)


def reconstruct_(
    layers: Mapping[Layer, Keep],
    call: Call,
    inputs: Batches,
    targets: Batches,
    settings: Reconstruction,
    *,
    seed: int = 0,
) -> tuple[float, float]:
    """Train the kept weights of one block's layers; masks stay. Returns the error before and after.

    Formula: min over W of ||f(x; W * m) - y||^2 / ||y - x||^2 [local reconstruction; Roux et al. 2025]

    x is what the pruned blocks before put out, y what the dense block did, and m the masks.
    call: the block as a function of hidden states. inputs, targets: batches of them, of which the last tenth judges.
    """
    with _training(layers) as parameters:
        return fit_(parameters, lambda x, y: block_error(call(x), x, y), (inputs, targets), settings, seed)


def fit_(
    parameters: list[nn.Parameter],
    error: Callable[[Tensor, Tensor], Tensor],
    batches: tuple[Batches, Batches],
    settings: Reconstruction,
    seed: int = 0,
) -> tuple[float, float]:
    """Train parameters until what they give for the first batches is the second ones; the error before and after.

    error: of one batch of each. It is judged on the last tenth, which is not trained on unless there is one batch only.
    The parameters of the least error are kept, those at the start among them.
    """
    inputs, targets = batches
    count = len(inputs)
    held = range(count - max(1, round(_HELD * count)), count)
    known = max(count - len(held), 1)
    order = generator(seed, "reconstruct")
    every = max(1, settings.steps // _LOOKS)
    rows: list[int] = []

    @torch.no_grad()
    def judged() -> float:
        found = [error(inputs[index], targets[index]) for index in held]
        return mean(float(torch.stack(found).mean()))  # every process keeps the same weights

    optimizer = torch.optim.Adam(parameters, lr=settings.rate)
    loop = Loop(parameters, lambda batch, step: error(*batch), [Descent(optimizer, Cosine(settings.steps))], clip=None)
    first = best = judged()
    chosen = [parameter.detach().clone() for parameter in parameters]
    for number in range(settings.steps):
        rows = rows or torch.randperm(known, generator=order).tolist()
        index = rows.pop()
        loop.step((inputs[index], targets[index]))
        if (number + 1) % every == 0 or number + 1 == settings.steps:
            now = judged()
            if now < best:
                best, chosen = now, [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for parameter, value in zip(parameters, chosen, strict=True):
            parameter.copy_(value)
    return first, best


@contextmanager
def _training(layers: Mapping[Layer, Keep]) -> Iterator[list[nn.Parameter]]:
    """The parameters that hold the layers, whose gradients are zero wherever no weight was kept."""
    masks: dict[nn.Parameter, Tensor] = {}
    for layer, keep in layers.items():
        parameter: Any = getattr(layer.module, layer.parameter)
        mask = masks.setdefault(parameter, torch.zeros_like(parameter))  # other matrices of one parameter stay
        stored = layer.stored(keep.to(mask.dtype))
        (mask if layer.index is None else mask[layer.index]).copy_(stored)
    before = {parameter: parameter.requires_grad for parameter in masks}
    hooks = []
    for parameter, mask in masks.items():
        parameter.requires_grad_(True)
        hooks.append(parameter.register_hook(mask.__mul__))
    try:
        yield list(masks)
    finally:
        for hook in hooks:
            hook.remove()
        for parameter, asked in before.items():
            parameter.requires_grad_(asked)
            parameter.grad = None

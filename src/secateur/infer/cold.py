"""Cold experts: what stands for the inputs of an expert that too few calibration tokens reached."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from secateur.adapt.block import Stage
from secateur.core.shapes import Activations
from secateur.infer.experts import expert_inputs, is_experts

__all__ = ["Cold", "Inputs", "warm_"]

_ROWS = 256  # of an identity matrix at a time


class Cold(NamedTuple):
    """An expert is cold that fewer `tokens` reached.

    by: layer, so that every token that reaches its layer counts, whichever expert it was sent to; or magnitude, so
    that all inputs count the same. Experts outside transformers' common interface go by magnitude.
    """

    tokens: int = 32
    by: str = "layer"


@runtime_checkable
class Inputs(Protocol):
    """What is gathered of a layer's inputs; fallback says what stands for them where too few came."""

    fallback: str | None

    def update(self, x: Activations) -> None:
        """Add a batch of inputs."""


def warm_(stages: Sequence[tuple[Stage, Inputs]], cold: Cold, run: Callable[[], None]) -> None:
    """Fill the empty statistics of cold experts, and note by what. `run` runs their block on every batch."""
    known: dict[int, list[tuple[Stage, Inputs]]] = {}
    modules: dict[int, nn.Module] = {}
    for stage, own in stages:
        layer = stage.layers[0]
        own.fallback = "layer" if cold.by == "layer" and is_experts(layer.module) else "magnitude"
        if own.fallback == "layer":
            modules[id(layer.module)] = layer.module
            known.setdefault(id(layer.module), []).append((stage, own))
        else:
            _identity_(own, layer.weight)
    with ExitStack() as stack:
        for key, module in modules.items():
            hook = module.register_forward_pre_hook(_watcher(known[key]), with_kwargs=True)
            stack.callback(hook.remove)
        if modules:
            run()


def _watcher(stages: Sequence[tuple[Stage, Inputs]]) -> Any:
    def seen(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        x = hidden.reshape(-1, hidden.shape[-1])  # [tokens, hidden]: all that reach the layer
        for stage, own in stages:
            layer = stage.layers[0]
            own.update(expert_inputs(module, x, int(layer.index or 0))[layer.parameter])

    return seen


def _identity_(own: Inputs, weight: Tensor) -> None:
    """Statistics under which all inputs count the same, so that only the weights decide."""
    width = weight.shape[1]
    for start in range(0, width, _ROWS):
        rows = torch.zeros(min(_ROWS, width - start), width, device=weight.device)
        rows.diagonal(start).fill_(1.0)
        own.update(rows)

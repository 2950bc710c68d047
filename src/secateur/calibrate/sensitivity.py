"""How much the loss notices a change of a layer's output: one backward pass of the whole model a sample."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from secateur.adapt.adapter import Adapter
from secateur.calibrate.gradient import BackwardSum
from secateur.core.errors import CalibrationError
from secateur.core.shapes import TokenIds

__all__ = ["Sensitivity", "output_sensitivity"]


class Sensitivity(BackwardSum):
    """The mean square, over tokens, of the loss's gradient at every output of a layer, `[out]`."""

    @property
    def value(self) -> Float[Tensor, " out"]:
        """The mean. Raises CalibrationError without tokens, or with NaN or inf."""
        if self.total is None or self.samples == 0 or not torch.isfinite(self.total).all():
            raise CalibrationError("gradients at a layer's outputs are missing or hold NaN or inf: try --dtype float32")
        return self.total / self.samples


def output_sensitivity(adapter: Adapter, ids: TokenIds) -> dict[str, Sensitivity]:
    """Every layer's sensitivity, by name; ids `[samples, length]`, one sample at a time.

    The loss is summed over the sample's tokens, so a token's gradient holds what all later
    tokens feel. The diagonal of the empirical Fisher information of the outputs: half of its product with
    an output's mean squared change is the second-order growth of the loss in nats a token.
    Needs the whole model and the activations of one sample in memory; no weight gradients.
    """
    adapter.model.requires_grad_(False)
    total = {layer.name: torch.zeros(layer.weight.shape[0]) for layer in adapter.layers()}
    embedding: Any = adapter.model.get_input_embeddings()
    with ExitStack() as stack:
        for hook in _hooks(adapter, total):
            stack.callback(hook.remove)
        stack.callback(embedding.register_forward_hook(lambda module, args, out: out.requires_grad_(True)).remove)
        for sample in ids.split(1):
            logits = adapter.model(sample, use_cache=False).logits[0, :-1].float()
            cross_entropy(logits, sample[0, 1:], reduction="sum").backward()
    return {name: Sensitivity(value, ids.numel()) for name, value in total.items()}


def _hooks(adapter: Adapter, total: dict[str, Tensor]) -> Iterator[Any]:
    for layer in adapter.layers():

        def add(gradient: Tensor, into: Tensor = total[layer.name]) -> None:
            into += gradient.reshape(-1, gradient.shape[-1]).float().square().sum(dim=0)

        def watch(module: Any, args: Any, out: Tensor, add: Any = add) -> None:
            out.register_hook(add)

        yield layer.module.register_forward_hook(watch)

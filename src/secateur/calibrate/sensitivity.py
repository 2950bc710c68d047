"""How much the loss notices a change of a layer's output."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from secateur.adapt.layer import Layer
from secateur.adapt.structure import Structure
from secateur.calibrate.backward import BackwardSum, Read
from secateur.core.errors import CalibrationError, ModelError
from secateur.core.shapes import TokenIds

__all__ = ["Sensitivity"]


class Sensitivity(BackwardSum):
    """The mean square, over tokens, of the loss's gradient at every output of a layer, `[out]`.

    The loss is summed over the sample's tokens, so a token's gradient holds what all later
    tokens feel. The diagonal of the empirical Fisher information of the outputs: half of its product with
    an output's mean squared change is the second-order growth of the loss in nats a token. No weight gradients
    are needed.
    """

    reduction: ClassVar[Literal["mean", "sum"]] = "sum"

    @property
    def value(self) -> Float[Tensor, " out"]:
        """The mean. Raises CalibrationError without tokens, or with NaN or inf."""
        if self.total is None or self.samples == 0 or not torch.isfinite(self.total).all():
            raise CalibrationError("gradients at a layer's outputs are missing or hold NaN or inf: try --dtype float32")
        return self.total / self.samples

    @staticmethod
    def counted(ids: TokenIds) -> int:
        """Tokens."""
        return ids.numel()

    @staticmethod
    @contextmanager
    def watch(structure: Structure, layers: Sequence[Layer]) -> Iterator[Read]:
        """Add up squares of what comes back to the layers' outputs."""
        stacked = [layer.name for layer in layers if layer.index is not None or layer.turned is not None]
        if stacked:
            raise ModelError(
                f"{stacked[0]} has no module of its own whose outputs can be watched: use an allocator other than "
                "knapsack, auto and relinearised"
            )
        total = {
            layer.name: torch.zeros(layer.weight.shape[0], device=layer.weight.device) for layer in layers
        }  # [out]
        embedding: Any = structure.model.get_input_embeddings()
        with ExitStack() as stack:
            for layer in layers:
                stack.callback(_watch(layer, total[layer.name]).remove)
            # Weights are frozen, so something else has to start the graph: the embeddings' output.
            stack.callback(embedding.register_forward_hook(lambda module, args, out: out.requires_grad_(True)).remove)
            yield lambda: total


def _watch(layer: Layer, into: Tensor) -> Any:
    def add(gradient: Tensor) -> None:
        into.add_(gradient.reshape(-1, gradient.shape[-1]).float().square().sum(dim=0))  # [tokens, out] -> [out]

    def watch(module: Any, args: Any, out: Tensor) -> None:
        out.register_hook(add)

    return layer.module.register_forward_hook(watch)

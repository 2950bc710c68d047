"""MaskedModel: a whole model under Wanda's masks at any ratios, its loss on held-out windows, and prices of moves."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from secateur.adapt.layer import Layer
from secateur.adapt.structure import Structure
from secateur.calibrate.backward import sample_loss
from secateur.calibrate.gradient import Gradient
from secateur.calibrate.sensitivity import Sensitivity
from secateur.core.allocation import Allocation
from secateur.core.shapes import Weight
from secateur.evaluate.perplexity import mean_loss
from secateur.score.wanda import row_ranks, wanda_score

__all__ = ["MaskedModel"]

_EVERY = 4  # tokens of which one is looked at for the second order


class MaskedModel:
    """A model in memory, with the dense weights and their ranks beside it."""

    def __init__(
        self,
        structure: Structure,
        norms: Mapping[str, Tensor],
        windows: tuple[Tensor, Tensor],
        group: int | None = None,
    ) -> None:
        """norms: of every layer's inputs `[in]` in the dense model. windows: those that price moves, and those that
        judge; both `[samples, length]`. group: m, where n of every m inputs stay and another n may in every layer.

        The structure's model is masked from then on.
        """
        device = structure.model.device
        self.structure, self.group = structure, group
        self.ids, self.held = (each.to(device) for each in windows)
        self.layers = {layer.name: layer for layer in structure.layers if layer.name in norms}
        self.dense = {name: layer.weight.float().clone() for name, layer in self.layers.items()}
        self.ranks = {name: self._ranks(name, norms[name].to(device)) for name in self.layers}
        self.told: dict[str, float] = {}

    def loss(self, ratios: Mapping[str, float], label: str) -> float:
        """Mean loss on the held-out windows, nats a token; noted under the label."""
        self.mask_(ratios)
        self.told[label] = mean_loss(self.structure.model, self.held)
        return self.told[label]

    def prices(self, ratios: Mapping[str, float], moves: Sequence[float]) -> dict[str, list[float]]:
        """Expected changes of the loss, nats a token, by layer and move, to second order at the masked model.

        Formula: <dL/dW, D> + 1/2 sum_o G_o E[(D x)_o^2], D what a move removes or restores [ours; LeCun et al. 1990]

        G is the mean square of the loss's gradient at an output. One backward pass a sample.
        """
        self.mask_(ratios)
        changes = {name: partial(self._change, name, ratios.get(name, 0.0)) for name in self.layers}
        squares = {name: own.new_zeros(len(moves), own.shape[0]) for name, own in self.dense.items()}
        layers = list(self.layers.values())
        model = self.structure.model.requires_grad_(False)
        with ExitStack() as stack:
            slopes = stack.enter_context(Gradient.watch(self.structure, layers))
            curvature = stack.enter_context(Sensitivity.watch(self.structure, layers))
            for layer in layers:
                stack.enter_context(_watched(layer, squares[layer.name], partial(map, changes[layer.name], moves)))
            for sample in self.ids.split(1):
                sample_loss(model, sample, "sum").backward()
            slope, bend, tokens = slopes(), curvature(), self.ids.numel()
        looked = sum(-(-sample.numel() // _EVERY) for sample in self.ids.split(1))
        found: dict[str, list[float]] = {}
        for name in self.layers:
            first = [float((slope[name] * changes[name](move)).sum()) / tokens for move in moves]
            second = (squares[name] @ bend[name]) / (2 * looked * tokens)
            found[name] = [one + float(two) for one, two in zip(first, second, strict=True)]
        return found

    @torch.no_grad()
    def mask_(self, ratios: Mapping[str, float]) -> None:
        """Take the lowest scores of every row off the dense weights.

        Of every m in a row where they come in groups; ratios are then rounded as `prune` rounds them.
        """
        ratios = {name: ratios.get(name, 0.0) for name in self.layers}
        if self.group is not None:
            sizes = {name: own.numel() for name, own in self.dense.items()}
            counts = Allocation(ratios).group_counts(sizes, self.group)
            ratios = {name: count / self.group for name, count in counts.items()}
        for name, layer in self.layers.items():
            layer.set_weight(self.dense[name] * (self.ranks[name] >= self._gone(name, ratios[name])))

    def _ranks(self, name: str, norm: Tensor) -> Tensor:
        score = wanda_score(self.dense[name], norm)
        return row_ranks(score if self.group is None else score.reshape(-1, self.group)).reshape(score.shape)

    def _gone(self, name: str, ratio: float) -> int:
        return round(min(max(ratio, 0.0), 1.0) * (self.group or self.dense[name].shape[1]))

    def _change(self, name: str, ratio: float, move: float) -> Weight:
        """What is added to the masked weight when the ratio moves: restored weights, or removed ones less."""
        now, then = self._gone(name, ratio), self._gone(name, ratio + move)
        rank = self.ranks[name]
        if then >= now:
            return torch.where((rank >= now) & (rank < then), -self.dense[name], 0.0)
        return torch.where((rank >= then) & (rank < now), self.dense[name], 0.0)


@contextmanager
def _watched(layer: Layer, squares: Float[Tensor, "moves out"], changes: Any) -> Iterator[None]:
    """Add up the squares that every change would add to the layer's outputs, at some tokens."""

    def seen(module: Any, args: tuple[Any, ...], out: Tensor) -> None:
        with torch.no_grad():
            x = args[0].reshape(-1, args[0].shape[-1])[::_EVERY].float()
            for place, change in enumerate(changes()):
                squares[place] += (x @ change.T).square().sum(dim=0)

    handle = layer.module.register_forward_hook(seen)
    try:
        yield
    finally:
        handle.remove()

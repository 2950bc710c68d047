"""MaskLLM: learn which n of every m weights stay, by gradients of drawn masks; the weights stay as they are."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.adapt.layer import Layer
from secateur.core.errors import InputError
from secateur.core.pattern import NM
from secateur.core.seed import generator
from secateur.core.shapes import Keep, TokenIds
from secateur.machine.device import autocasting
from secateur.masks.adam import HalfAdam
from secateur.masks.candidates import Candidates, likeliest, prior_logits
from secateur.masks.masking import Draw, key_of, masked_gradient, masked_weight
from secateur.train.loop import Cosine, Descent, Loop, Objective
from secateur.train.objective import mixed_loss, next_token_logits
from secateur.train.reconstruct import block_error

__all__ = ["LearnedMasks", "MaskSettings", "MaskedBlock", "MaskedTokens"]

_SPREAD = 0.01  # standard deviation of the logits that the prior's strength counts in


@dataclass(frozen=True, kw_only=True)
class MaskSettings:
    """How masks are learned.

    pattern: n:m. steps: of batches of `batch` windows of `length` tokens. rate: peak of a cosine schedule.
    strength: of the prior, in standard deviations of the logits. noise: standard deviation of their start; 0 takes
    the prior as it is. sharpness (kappa) and temperature (tau): first and last value, straight lines between.
    pull (lambda): keeps large weights; falls to 0. hard: the likeliest candidate in the forward pass.
    teaching: share of the loss that the dense model's distribution has.
    """

    pattern: NM = field(default_factory=NM)
    steps: int = 500
    batch: int = 2
    length: int = 256
    rate: float = 2e-3
    strength: float = 3.0
    noise: float = 0.0
    sharpness: tuple[float, float] = (200.0, 500.0)
    temperature: tuple[float, float] = (1.0, 0.05)
    pull: float = 1e-5
    hard: bool = False
    teaching: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse fields outside their range."""
        Candidates(self.pattern)
        if min(self.steps, self.batch) < 1 or self.length < 2:
            raise InputError("masks need steps and batch of at least 1 and windows of at least 2 tokens")
        if not (self.rate > 0 and min(self.temperature) > 0 and min(self.sharpness) > 0):
            raise InputError("masks need a rate, sharpness and temperature above 0")
        if not (0 <= self.teaching <= 1 and min(self.pull, self.noise) >= 0):
            raise InputError("masks need teaching in 0..1, and pull and noise of at least 0")

    def draw(self, step: int, layer: str) -> Draw:
        """How a layer's masks are drawn at a step.

        Formula: kappa_t, tau_t linear in t / T; lambda_t = lambda (1 - t / T) [Fang et al. 2024, appendix]
        """
        done = step / max(1, self.steps - 1)
        sharpness, temperature = (first + done * (last - first) for first, last in (self.sharpness, self.temperature))
        return Draw(key_of(self.seed, layer, step), sharpness, temperature, self.pull * (1 - done), self.hard)


class LearnedMasks:
    """Layers whose n:m masks are learned; while `attached`, each multiplies by its weight under the mask.

    A layer computes with a drawn soft mask at a step, with the likeliest mask while `settled`, densely while `whole`.
    """

    def __init__(
        self, layers: Sequence[Layer], settings: MaskSettings, prior: Mapping[str, Tensor] | None = None
    ) -> None:
        """prior: keep masks by layer name, which the logits start from. Raises PatternError where one is not n:m."""
        self.settings, self.candidates = settings, Candidates(settings.pattern)
        self.layers = {layer.name: layer for layer in layers}
        # Copies where a module stores them turned.
        self.weights = {layer.name: layer.weight.detach().contiguous() for layer in layers}
        self.logits: dict[str, nn.Parameter] = {}
        self.step: int | None = None
        self.dense = False
        self._settled: dict[str, Tensor] = {}
        for layer in layers:
            weight = self.weights[layer.name]
            settings.pattern.check((weight.shape[0], weight.shape[1]), 1 - settings.pattern.n / settings.pattern.m)
            start = self._start(layer.name, weight, None if prior is None else prior[layer.name])
            self.logits[layer.name] = nn.Parameter(start.to(weight.device))

    def _start(self, name: str, weight: Tensor, keep: Keep | None) -> Tensor:
        rows, columns = weight.shape
        shape = (len(self.candidates), rows, columns // self.candidates.pattern.m)
        start = torch.zeros(shape)
        if keep is not None:
            self.candidates.numbers(keep)  # refuses masks that are not n:m
            start += prior_logits(self.candidates, keep, strength=self.settings.strength, spread=_SPREAD)
        if self.settings.noise:
            drawn = torch.randn(shape, generator=generator(self.settings.seed, "logits", name))
            start += self.settings.noise * drawn
        return start

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Let every layer compute with its mask."""
        modules = [layer.module for layer in self.layers.values()]
        for layer in self.layers.values():
            layer.module.forward = partial(self._forward, layer)
        try:
            yield
        finally:
            for module in modules:
                del module.forward  # the class's own shows again

    def _forward(self, layer: Layer, x: Tensor) -> Tensor:
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        logits, weight = self.logits[layer.name], self.weights[layer.name]
        bias = None if layer.bias is None else layer.bias.to(dtype)
        if self.dense or self.step is None:
            used = weight if self.dense else weight * self._settled[layer.name]
            return nn.functional.linear(x.to(dtype), used.to(dtype), bias)
        draw = self.settings.draw(self.step, layer.name)
        out: Tensor = _MaskedProduct.apply(x.to(dtype), logits, weight, self.candidates, draw)
        return out if bias is None else out + bias

    @contextmanager
    def settled(self) -> Iterator[None]:
        """The likeliest masks inside, as after training."""
        step, self.step = self.step, None
        self._settled = self.keep()
        try:
            yield
        finally:
            self.step, self._settled = step, {}

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Dense weights inside: the teacher."""
        self.dense = True
        try:
            yield
        finally:
            self.dense = False

    def numbers(self) -> dict[str, Tensor]:
        """Every block's likeliest candidate, `[out, in / m]` bytes by layer name."""
        return {name: likeliest(logits.detach()) for name, logits in self.logits.items()}

    def keep(self, numbers: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Keep masks of candidates, or of the likeliest ones."""
        chosen = self.numbers() if numbers is None else numbers
        return {name: self.candidates.keep(own.long()) for name, own in chosen.items()}

    def certainty(self) -> float:
        """Mean largest probability of a block at the step's sharpness, without noise; 1 when nothing is open."""
        step = 0 if self.step is None else self.step
        total = count = 0.0
        for name, logits in self.logits.items():
            top = torch.softmax(self.settings.draw(step, name).sharpness * logits.detach(), dim=0).amax(dim=0)
            total, count = total + float(top.sum()), count + top.numel()
        return total / count

    def loop(self, objective: Objective, **options: Any) -> Loop:
        """Adam on the logits, its moments in two bytes each, at a cosine rate."""
        parameters = list(self.logits.values())
        adam = HalfAdam(parameters, self.settings.rate)
        return Loop(parameters, objective, [Descent(adam, Cosine(self.settings.steps))], **options)


class _MaskedProduct(torch.autograd.Function):
    """x times a frozen weight under its drawn mask; the masked weight is made again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, logits: Tensor, weight: Tensor, candidates: Candidates, draw: Draw) -> Tensor:
        ctx.save_for_backward(x)
        ctx.drawn = (logits, weight, candidates, draw)
        return nn.functional.linear(x, masked_weight(logits, weight, candidates, draw, x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None, None, None]:
        (x,), (logits, weight, candidates, draw) = ctx.saved_tensors, ctx.drawn
        gradient = gradient.to(x.dtype)
        back = None
        if ctx.needs_input_grad[0]:
            back = gradient @ masked_weight(logits, weight, candidates, draw, x.dtype)
        slope = gradient.flatten(0, -2).T @ x.flatten(0, -2)  # [out, in]
        return back, masked_gradient(logits, weight, slope, candidates, draw), None, None, None


class MaskedTokens:
    """The next token under drawn masks; the dense weights of the same model are the teacher.

    Formula: L = (1 - t) CE(p(W * m), x) + t KL(p(W) || p(W * m)) - lambda ||W * m||^2 [Fang et al. 2024, eq. 6]

    The last term counts in the gradient of the masks alone, not in the loss that is told.
    """

    def __init__(self, model: PreTrainedModel, masks: LearnedMasks, *, half: bool) -> None:
        """half: products in bfloat16."""
        self.model, self.masks, self.half = model, masks, half

    def __call__(self, ids: TokenIds, step: int) -> Tensor:
        """The loss of `[batch, length]` ids, nats a token."""
        ids = ids.to(self.model.device)
        teaching, taught = self.masks.settings.teaching, None
        with autocasting(ids.device, half=self.half):
            if teaching:
                with self.masks.whole(), torch.no_grad():
                    taught = next_token_logits(self.model, ids)
            self.masks.step = step  # stays: a block that is computed again in the backward pass draws the same
            return mixed_loss(next_token_logits(self.model, ids), ids[:, 1:].flatten(), taught, teaching)


class MaskedBlock:
    """A block under drawn masks against outputs that are given.

    Formula: L = ||f(x; W * m) - y||^2 / ||y - x||^2, y the dense block's outputs [block-wise; not the paper's]
    """

    def __init__(self, call: Callable[[Tensor], Tensor], masks: LearnedMasks, *, half: bool) -> None:
        """call: the block's output of its inputs. half: products in bfloat16."""
        self.call, self.masks, self.half = call, masks, half

    def __call__(self, batch: tuple[Tensor, Tensor], step: int) -> Tensor:
        """The loss of inputs and outputs, both `[samples, length, hidden]`."""
        self.masks.step = step
        inputs, outputs = batch
        with autocasting(inputs.device, half=self.half):
            made = self.call(inputs)
        return block_error(made, inputs, outputs)

"""sparsify_(model, recipe, pixels): zeros in the weights of a network, by any solver, score and pattern."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from secateur.adapt.layer import Layer
from secateur.calibrate.backward import split_needs
from secateur.calibrate.statistic import gather
from secateur.convnet.trace import evaluating
from secateur.core.errors import InputError, PatternError, SecateurError
from secateur.images.tokens import tokens_of, understood
from secateur.run.recipe import Recipe

__all__ = ["SparseNetwork", "sparsify_"]

_TOKENS = 40_000


class SparseNetwork(NamedTuple):
    """The share of zeros of every layer that was solved, of all of them, and layers that were left, with the reason."""

    layers: dict[str, float]
    sparsity: float
    skipped: dict[str, str]


@torch.no_grad()
def sparsify_(model: nn.Module, recipe: Recipe, pixels: Tensor) -> SparseNetwork:
    """Solve every convolution and linear layer in the order in which they run, in one forward pass.

    A convolution is seen as `[out, in * kh * kw]`. Each layer is solved on inputs from pruned layers, as language
    models are. Grouped convolutions stay. Raises InputError where the solver needs a backward pass or removes whole
    units, PatternError where no layer fits the pattern.
    """
    run = _Pass(recipe)
    with evaluating(model), ExitStack() as stack:
        for name, module in model.named_modules():
            if getattr(module, "groups", 1) > 1:
                run.done.skipped[name] = "it is a grouped convolution"
            elif isinstance(module, nn.Conv2d | nn.Linear):
                stack.enter_context(run.watched(Layer(name, module)))
        model(pixels)
    if not run.done.layers:
        why = next(iter(run.done.skipped.values()), "the network has no convolution or linear layer")
        raise PatternError(f"no layer can be pruned so: {why}")
    return run.done._replace(sparsity=run.zeros / run.weights)


class _Pass:
    """One forward pass, in which every layer is solved when it is reached."""

    def __init__(self, recipe: Recipe) -> None:
        self.solver, self.pattern = recipe.solver(), recipe.shape()
        if recipe.whole_blocks() or recipe.unit() is not None or split_needs(self.solver.needs)[1]:
            raise InputError(f"method {recipe.method!r} with pattern {recipe.pattern!r} is for language models")
        self.ratio = recipe.target()
        self.done = SparseNetwork({}, 0.0, {})
        self.weights = self.zeros = 0

    @contextmanager
    def watched(self, layer: Layer) -> Iterator[None]:
        """Solve a layer when it runs for the first time, and let it compute with what was solved."""

        def hook(module: Any, args: Any, out: Tensor) -> Tensor | None:
            if layer.name in self.done.layers or layer.name in self.done.skipped:
                return None
            if why := self._solve(layer, args[0], out):
                self.done.skipped[layer.name] = why
                return None
            solved: Tensor = module.forward(args[0])
            return solved

        handle = layer.module.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def _solve(self, layer: Layer, x: Tensor, out: Tensor) -> str:
        """Overwrite the layer's weight; why not, where that cannot be."""
        rows, columns = layer.weight.shape
        try:
            self.pattern.check((rows, columns), self.ratio)
        except PatternError as error:
            return str(error)
        tokens = tokens_of(layer.module, x, _TOKENS)
        if not understood(layer, tokens, out, _TOKENS):
            return f"a {type(layer.module).__name__} computes otherwise than a plain layer"
        stats = gather(self.solver.needs, tokens)
        try:
            solution = self.solver.solve(layer.weight.float(), stats, self.pattern, self.ratio)
        except SecateurError as error:
            raise type(error)(f"{layer.name}: {error}") from error
        layer.set_weight(solution.weight)
        if solution.bias is not None:
            layer.set_bias(solution.bias if layer.bias is None else layer.bias + solution.bias)
        gone = int((~solution.keep).sum())
        self.done.layers[layer.name] = gone / solution.keep.numel()
        self.weights, self.zeros = self.weights + solution.keep.numel(), self.zeros + gone
        return ""

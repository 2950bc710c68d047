"""Block: one transformer block as data: its stages in the order they run, and its attentions."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from secateur.adapt.attention import Attention, site_weights, span
from secateur.adapt.layer import Layer
from secateur.adapt.site import Site

__all__ = ["Answer", "Block", "Sizes", "Stage", "replaced"]


class Sizes(NamedTuple):
    """What a block holds: query heads, key-value heads, ffn channels."""

    heads: int
    kv_heads: int
    ffn: int


class Answer(NamedTuple):
    """Which module's answer a stage's output is, so that the module need not run again.

    skipped: modules that feed nothing else, which may pass their input on. adds_residual: the module
    gets the residual as second argument and adds it. pair: it returns the output and None.
    """

    module: nn.Module
    skipped: tuple[nn.Module, ...] = ()
    adds_residual: bool = False
    pair: bool = False


@dataclass(frozen=True)
class Stage:
    """Layers that read the same tensor, and where their output goes: to the next stage, or as an answer.

    step: stages of one step are gathered in one run of their block. routed: not every token reaches its layers.
    calls: how often a layer reads in one run of the block; 0 where that depends on the tokens.
    """

    name: str
    layers: tuple[Layer, ...]
    answer: Answer | None = None
    step: int = 0
    routed: bool = False
    calls: int = 1


@dataclass(frozen=True, eq=False)
class Block:
    """One block: its name and number in the model, its stages in forward order, its attentions.

    returns_pair: the block hands on its output and something else. takes: the keyword under which it gets hidden
    states; None where they are its first argument. inferred: the stages were read off what the block computes, so
    no module answers for them. whole: this one block is the whole body, and its input is token ids or pixels.
    """

    name: str
    number: int
    module: nn.Module
    stages: tuple[Stage, ...]
    attentions: tuple[Attention, ...]
    returns_pair: bool = False
    takes: str | None = None
    inferred: bool = False
    whole: bool = False

    def split(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
        """The hidden states among a call's arguments, and the other arguments."""
        if args:
            return args[0], args[1:], kwargs
        others = dict(kwargs)
        return others.pop(self.takes or next(iter(others))), (), others

    def call(self, hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Run the block on hidden states `[samples, length, hidden]` and give those that it puts out."""
        if self.takes is None:
            return self.hidden(self.module(hidden, *args, **kwargs))
        return self.hidden(self.module(*args, **{self.takes: hidden}, **kwargs))

    @staticmethod
    def hidden(out: Any) -> Tensor:
        """The hidden states in what a block returns."""
        while not isinstance(out, Tensor):
            out = out[0]
        return out

    def answer(self, hidden: Tensor) -> Any:
        """What the block returns where it puts out these hidden states and nothing else."""
        return (hidden, None) if self.returns_pair else hidden

    @property
    def layers(self) -> list[Layer]:
        """Every layer, in forward order."""
        return [layer for stage in self.stages for layer in stage.layers]

    def layer(self, name: str) -> Layer:
        """A layer by its name in the model."""
        return next(layer for layer in self.layers if layer.name == name)

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter of the block by its name in the model."""
        place = f"{self.name}." if self.name else ""
        return {f"{place}{name}": value for name, value in self.module.named_parameters()}

    def sites(self, unit: str = "auto") -> list[Site]:
        """The block's sites in forward order: attentions first, where they have heads, then ffn.

        unit: kv_groups (query heads with their K and V head), heads (equally many query
        heads of every group, K and V stay), none, or auto: kv_groups where there is more
        than one. Raises InputError when the model cannot lose such units.
        """
        chosen = [(attention, attention.unit(unit)) for attention in self.attentions]
        sites = [attention.site(units) for attention, units in chosen if units != "none" and attention.heads]
        return sites + [_channels(self.name, into, out) for into, out in self._feed_forward()]

    @property
    def sizes(self) -> Sizes:
        """What a decoder's block holds, read off its matrices."""
        (attention,), ((_, out),) = self.attentions, self._feed_forward()
        return Sizes(attention.heads, attention.kv_heads, out.layers[0].weight.shape[1])

    def _feed_forward(self) -> list[tuple[Stage, Stage]]:
        """The stages between which channels lie."""
        stages: Mapping[str, Stage] = {stage.name: stage for stage in self.stages}
        return [(stages["ffn_in"], stages["ffn_out"])] if "ffn_in" in stages else []


@contextmanager
def replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Give a module another forward for a while, and back what it had: its class's, or one of its own.

    Not a hook: a hook cannot keep the module from running.
    """
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


def _channels(block: str, into: Stage, out: Stage) -> Site:
    (reader,) = out.layers
    count = reader.weight.shape[1]
    channels = span(count, 1)
    rows = {
        # A fused gate and up projection has two rows a channel, half the matrix apart.
        layer.name: torch.cat([channels + start for start in range(0, layer.weight.shape[0], count)], dim=1)
        for layer in into.layers
    }
    columns = {reader.name: channels}
    layers = {layer.name: layer for layer in (*into.layers, reader)}
    return Site(f"{block}.ffn", "ffn", count, site_weights(layers, rows, columns), rows, columns)

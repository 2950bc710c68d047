"""loss_curves(structure, ...): what a network's outputs lose by channels of each site, and by taps of each kernel."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from secateur.adapt.layer import Layer
from secateur.adapt.site import Site
from secateur.calibrate.statistic import Gathered, Gram, gather
from secateur.convnet.trace import evaluating
from secateur.core.cut import Cut
from secateur.deprune.depthwise import Depthwise, Separable, tap_grams
from secateur.images.repair import Repair, lone_readers
from secateur.images.tokens import tokens_of, understood
from secateur.solve.slimgpt import SlimGPT
from secateur.solve.taps import eliminate_taps, of_channels, refit_taps

__all__ = ["Curve", "Curves", "loss_curves"]

_SHARES = (0.25, 0.5, 0.75)
_BATCH = 32


class Curve(NamedTuple):
    """The loss without a share of something: measured at some shares, which rise, and never falling between them.

    Up to the first it grows with the square; between two on a line, and so beyond the last.
    """

    shares: tuple[float, ...]
    losses: tuple[float, ...]

    def at(self, share: float) -> float:
        """The loss without this share."""
        losses = tuple(accumulate(self.losses, max))
        if share <= self.shares[0] or len(losses) == 1:
            return losses[0] * (share / self.shares[0]) ** 2
        place = min(max(bisect_left(self.shares, share), 1), len(losses) - 1)
        low, high = self.shares[place - 1 : place + 1]
        return losses[place - 1] + (losses[place] - losses[place - 1]) * (share - low) / (high - low)


class Curves(NamedTuple):
    """By site, and by depthwise layer."""

    channels: Mapping[str, Curve]
    taps: Mapping[str, Curve]


@torch.no_grad()
def loss_curves(parts: Separable, pixels: Tensor, how: Repair) -> Curves:
    """Curves through what was measured: sites without a quarter, a half, three quarters; kernels without half of it.

    Formula: KL(p || p') = mean over pictures of sum_y p ln(p / p'), p the whole network's and p' the pruned one's

    One thing is pruned at a time, and where `how` refits, what reads it is solved as it will be. Losses of several are
    taken as their sum.
    """
    trial = _Trial(parts, pixels, how)
    channels = {
        site.name: Curve(_SHARES, tuple(trial.without_channels(site, parts.scores[site.name], of) for of in _SHARES))
        for site in parts.sites
    }
    return Curves(channels, {own.name: Curve((0.5,), (trial.without_taps(own),)) for own in parts.kernels})


class _Trial:
    """A network of which one thing at a time is pruned."""

    def __init__(self, parts: Separable, pixels: Tensor, how: Repair) -> None:
        """Run the whole network; keep its outputs, and the Grams of what reads sites and of what taps read."""
        self.structure, self.pixels, self.how = parts.structure, pixels, how
        self.grams: dict[str, Gathered] = {}
        self.taps: dict[str, Tensor] = {}
        self.readers = lone_readers(self.structure, parts.sites) if how.refit else {}
        with ExitStack() as stack:
            for name in self.readers:
                stack.callback(self._hooked(name, self._read_layer).remove)
            for own in parts.kernels if how.refit else ():
                stack.callback(self._hooked(own.name, self._read_taps).remove)
            self.whole = self._log_shares()

    def without_channels(self, site: Site, scores: Tensor, share: float) -> float:
        """The loss without a share of a site's channels."""
        structure, gone = self.structure, round(site.count * share)
        with _as_they_were([structure.layers[name] for name in site.columns]):
            if site.layer in self.grams:
                layer, order = structure.layers[site.layer], site.columns[site.layer].flatten()
                weight = layer.weight.clone()
                stats = self.grams[site.layer]
                solved = SlimGPT(damp=self.how.damp).solve(weight[:, order], stats, site.pattern, gone / site.count)
                weight[:, order] = solved.weight
                layer.set_weight(weight)
            else:
                best = scores.argsort(descending=True, stable=True)[: max(1, site.count - gone)]
                structure.mask_(Cut({site.name: tuple(sorted(best.tolist()))}))
            return self._loss()

    def without_taps(self, own: Depthwise) -> float:
        """The loss without half of a kernel's taps, the same in runs of channels as they stand."""
        layer = self.structure.layers[own.name]
        with _as_they_were([layer]):
            weight = layer.weight.clone()
            grams = self.taps.get(own.name)
            if grams is None:
                weight.scatter_(1, weight.abs().argsort(dim=1)[:, : own.taps // 2], 0.0)
            else:
                runs = eliminate_taps(weight.float(), grams, own.taps - own.taps // 2)
                keep = of_channels(runs, len(weight))
                weight = refit_taps(weight.float(), grams, keep).to(weight.dtype)
            layer.set_weight(weight)
            return self._loss()

    def _loss(self) -> float:
        return float((self.whole.exp() * (self.whole - self._log_shares())).sum(dim=1).mean().clamp_min(0))

    def _log_shares(self) -> Tensor:
        with evaluating(self.structure.model):
            out = [self.structure.model(part) for part in self.pixels.split(_BATCH)]
        return torch.cat(out).double().log_softmax(dim=1)

    def _hooked(self, name: str, read: Callable[[Layer, Tensor, Tensor], None]) -> RemovableHandle:
        layer = self.structure.layers[name]
        return layer.module.register_forward_hook(lambda module, args, out: read(layer, args[0], out))

    def _read_layer(self, layer: Layer, x: Tensor, out: Tensor) -> None:
        tokens = tokens_of(layer.module, x, self.how.tokens)
        if layer.name in self.grams or understood(layer, tokens, out, self.how.tokens):
            order = self.readers[layer.name].columns[layer.name].flatten()
            self.grams.setdefault(layer.name, gather((Gram,))).update(tokens[:, order])

    def _read_taps(self, layer: Layer, x: Tensor, out: Tensor) -> None:
        module: Any = layer.module
        if layer.name not in self.taps:  # the first pictures are enough
            self.taps[layer.name] = tap_grams(module, x)


@contextmanager
def _as_they_were(layers: Sequence[Layer]) -> Iterator[None]:
    """Give layers their weights back afterwards."""
    held = [(layer, layer.weight.clone()) for layer in layers]
    try:
        yield
    finally:
        for layer, weight in held:
            layer.set_weight(weight)

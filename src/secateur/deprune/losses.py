"""loss_curves(structure, ...): what a network's outputs lose by channels of each site, and by taps of each kernel."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from secateur.adapt.layer import Layer
from secateur.convnet.trace import evaluating
from secateur.deprune.depthwise import Depthwise, Separable, tap_grams
from secateur.deprune.reading import reading_errors
from secateur.images.pictures import Pictures
from secateur.images.prune import gradients
from secateur.score.filters import TaylorChannels
from secateur.solve.taps import eliminate_taps, of_channels, refit_taps

__all__ = ["Curve", "Curves", "divergence", "log_shares", "loss_curves"]

_SHARES = tuple(part / 16 for part in range(1, 17))
_TAPS = (0.5, 0.75)  # of taps
_BATCH = 32


class Curve(NamedTuple):
    """The loss without a share of something: known at some shares, which rise, and never falling between them.

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

    def times(self, factor: float) -> "Curve":
        """The curve with every loss multiplied."""
        return Curve(self.shares, tuple(factor * loss for loss in self.losses))


class Curves(NamedTuple):
    """By site, and by depthwise layer."""

    channels: Mapping[str, Curve]
    taps: Mapping[str, Curve]

    def levelled(self, channels: float, taps: float) -> "Curves":
        """Curves of the same shapes that come to what two networks really lost.

        channels, taps: the measured loss over the sum of the curves' own.
        """
        return Curves(
            {name: own.times(channels) for name, own in self.channels.items()},
            {name: own.times(taps) for name, own in self.taps.items()},
        )


def loss_curves(parts: Separable, pixels: Tensor, *, refit: bool = True) -> Curves:
    """Channels by what outputs and readers lose; kernels by what outputs lose without half and three quarters of each.

    Formula: sqrt(t e), t = sum over the c that go of |sum over c's weights of w dL/dw| [Molchanov et al. 2019], lowest
    first, and e the relative error of what reads them; KL(p || p') = mean over pictures of sum_y p ln(p / p'), p the
    whole network's and p' the pruned one's

    L is the cross-entropy with the class that the network predicts. Alone, t takes too much of early layers, whose
    errors all others read, and e too much where the classes do not depend on it. Kernels are
    pruned one at a time. Losses of several are taken as their sum: their level is wrong, so measure it and correct it
    by `levelled`. refit: solve the taps that are kept.
    """
    found = gradients(parts.structure, Pictures(pixels, None))
    with torch.no_grad():
        score = TaylorChannels()
        errors = reading_errors(parts.structure, parts.sites, pixels, _SHARES)
        channels = {
            site.name: _mean(_summed(score(site, parts.structure.layers, found)), errors[site.name])
            for site in parts.sites
        }
        trial = _Trial(parts, pixels, refit=refit)
        return Curves(channels, {own.name: trial.curve(own) for own in parts.kernels})


def _summed(scores: Tensor) -> list[float]:
    lowest = scores.double().sort().values.cumsum(0)
    gone = [round(share * len(scores)) for share in _SHARES]
    return [float(lowest[count - 1]) if count else 0.0 for count in gone]


def _mean(estimates: list[float], errors: list[float]) -> Curve:
    """The geometric mean of both."""
    return Curve(_SHARES, tuple((one * two) ** 0.5 for one, two in zip(estimates, errors, strict=True)))


def divergence(whole: Tensor, pruned: Tensor) -> float:
    """KL(p || p') of log-probabilities `[pictures, classes]`, in nats a picture."""
    return float((whole.exp() * (whole - pruned)).sum(dim=1).mean().clamp_min(0))


@torch.no_grad()
def log_shares(model: nn.Module, pixels: Tensor) -> Tensor:
    """Log-probabilities `[pictures, classes]`."""
    with evaluating(model):
        out = [model(part) for part in pixels.split(_BATCH)]
    return torch.cat(out).double().log_softmax(dim=1)


class _Trial:
    """A network of which one kernel at a time is pruned."""

    def __init__(self, parts: Separable, pixels: Tensor, *, refit: bool) -> None:
        """Run the whole network; keep its outputs, and the Grams of what taps read."""
        self.structure, self.pixels = parts.structure, pixels
        self.taps: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for own in parts.kernels if refit else ():
                stack.callback(own.module.register_forward_hook(partial(self._read, own.name)).remove)
            self.whole = log_shares(self.structure.model, pixels)

    def curve(self, own: Depthwise) -> Curve:
        """What is lost without shares of a kernel's taps."""
        kept = sorted({own.kept(1 - share) for share in _TAPS} - {own.taps}, reverse=True) or [own.taps]
        shares = tuple(max(1 - count / own.taps, 1e-9) for count in kept)
        return Curve(shares, tuple(self.without_taps(own, own.taps - count) for count in kept))

    def without_taps(self, own: Depthwise, gone: int) -> float:
        """The loss without so many of a kernel's taps, the same in runs of channels as they stand."""
        layer = self.structure.layers[own.name]
        with _as_it_was(layer):
            weight = layer.weight.clone()
            grams = self.taps.get(own.name)
            if grams is None:
                weight.scatter_(1, weight.abs().argsort(dim=1)[:, :gone], 0.0)
            else:
                runs = eliminate_taps(weight.float(), grams, own.taps - gone)
                keep = of_channels(runs, len(weight))
                weight = refit_taps(weight.float(), grams, keep).to(weight.dtype)
            layer.set_weight(weight)
            return divergence(self.whole, log_shares(self.structure.model, self.pixels))

    def _read(self, name: str, module: Any, args: Any, out: Tensor) -> None:
        if name not in self.taps:  # the first pictures are enough
            self.taps[name] = tap_grams(module, args[0])


@contextmanager
def _as_it_was(layer: Layer) -> Iterator[None]:
    """Give a layer its weight back afterwards."""
    held = layer.weight.clone()
    try:
        yield
    finally:
        layer.set_weight(held)

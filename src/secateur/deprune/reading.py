"""reading_errors(structure, sites, pixels): what the readers of a site's channels lose with them, at best."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from secateur.adapt.site import Site
from secateur.calibrate.statistic import Gram, gather
from secateur.convnet.structure import ChannelStructure
from secateur.convnet.trace import evaluating
from secateur.core.pattern import Columns
from secateur.deprune.depthwise import gain_of
from secateur.images.tokens import tokens_of
from secateur.solve.slimgpt import SlimGPT

__all__ = ["reading_errors"]

_TOKENS = 30_000  # of all pictures, of which Grams are made
_BATCH = 32


@torch.no_grad()
def reading_errors(
    structure: ChannelStructure, sites: Sequence[Site], pixels: Tensor, shares: Sequence[float]
) -> dict[str, list[float]]:
    """The relative error of what reads a site, without each share of its channels, by the site's name.

    Formula: e = sqrt(sum over readers of min over W' of ||G (W - W') X||^2 / ||Y||^2) [least squares; ours]

    Channels go one after another, the cheapest first, and the others take over what they gave. X is what the reader
    reads in the dense network, G the gain of the batch norm after it, and Y what its channels are when the next layer
    reads them: with the residual stream, where they are added to one. Where no reader can be solved, e is the share.
    """
    seen = _Seen(structure, sites)
    with evaluating(structure.model), seen.watching(min(len(pixels), _BATCH) / len(pixels)):
        for part in pixels.split(_BATCH):
            structure.model(part)
    found: dict[str, list[float]] = {}
    for site in sites:
        curves = [seen.squared_errors(site, name, shares) for name in site.columns if name in seen.tokens]
        found[site.name] = [sum(values) ** 0.5 for values in zip(*curves, strict=True)] if curves else list(shares)
    return found


class _Seen:
    """What readers read, and how large their channels are for the next layer."""

    def __init__(self, structure: ChannelStructure, sites: Sequence[Site]) -> None:
        self.structure = structure
        self.tokens: dict[str, list[Tensor]] = {}
        self.sizes: dict[str, list[float]] = {}
        self.readers = {name for site in sites for name in site.columns if _is_plain(structure.layers[name].module)}

    @contextmanager
    def watching(self, share: float) -> Iterator[None]:
        """Note what layers read while the network runs; share: of the pictures that one batch has."""
        order = list(self.structure.layers)
        watched = {name: self._next(name, order) for name in self.readers}
        with ExitStack() as stack:
            for name in self.readers | {after for after in watched.values() if after is not None}:
                hook = partial(self._note, name, max(1, int(_TOKENS * share)), name in watched.values())
                stack.callback(self.structure.layers[name].module.register_forward_pre_hook(hook).remove)
            yield
        self.after = watched

    def _next(self, name: str, order: list[str]) -> str | None:
        """The first layer after a reader that reads the channels which the reader makes."""
        for site in self.structure.sites:
            if name in site.rows:
                later = [own for own in order[order.index(name) + 1 :] if own in site.columns]
                return later[0] if later and self.structure.layers[later[0]].axis is None else None
        return None

    def _note(self, name: str, most: int, sized: bool, module: Any, args: Any) -> None:
        x = args[0]
        if name in self.readers:
            self.tokens.setdefault(name, []).append(tokens_of(module, x, most))
        if sized:
            channels = 1 if x.dim() == 4 else -1
            self.sizes.setdefault(name, []).append(float(x.square().sum(dim=channels).mean()))

    def squared_errors(self, site: Site, name: str, shares: Sequence[float]) -> list[float]:
        """||G (W - W') X||^2 / ||Y||^2 of one reader without each share of the site's channels."""
        index = site.columns[name]
        order = index.flatten()
        tokens = torch.cat(self.tokens[name])
        weight = self.structure.layers[name].weight.float() * self._gain(name)[:, None]
        after = self.after.get(name)
        whole = float((tokens @ weight.T).square().sum(dim=1).mean())
        if after is not None and (sizes := self.sizes.get(after)):
            whole = sum(sizes) / len(sizes)
        solver, pattern = SlimGPT(last=1, decay=0.02), Columns(unit=index.shape[1])
        path = solver.path(weight[:, order], gather((Gram,), tokens[:, order]), pattern)
        gone = [round(share * site.count) for share in shares]
        return [max((paid for count, paid in path if count <= stop), default=0.0) / max(whole, 1e-30) for stop in gone]

    def _gain(self, name: str) -> Tensor:
        for site in self.structure.sites:
            if name in site.rows:
                return gain_of(self.structure, site, name)
        return torch.ones(len(self.structure.layers[name].weight))


def _is_plain(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)

"""repair_(structure, cut, pixels): refit what reads removed channels, and correct batch norms, in one forward pass."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from secateur.adapt.layer import Layer
from secateur.adapt.site import Site
from secateur.calibrate.statistic import Gram, gather
from secateur.convnet.structure import ChannelStructure
from secateur.convnet.trace import evaluating
from secateur.core.cut import Cut
from secateur.core.linalg import damped
from secateur.images.tokens import tokens_of, understood
from secateur.solve.slimgpt import SlimGPT

__all__ = ["Edit", "Repair", "Repaired", "lone_readers", "repair_"]

Edit = Callable[[Any, Tensor], None]  # changes a module's weight, given what its pruned self reads


@dataclass(frozen=True, kw_only=True)
class Repair:
    """What is repaired after channels were removed.

    refit: solve the layers that read them by least squares, so that their output stays.
    choose: at sites that one layer reads, choose anew which channels stay, as many as the cut
    keeps: the cheapest is removed and the others take over what it gave, one after another.
    norms: correct batch norms by how their inputs changed. damp: share of the mean diagonal
    added to Grams. widest: layers that read more inputs are not refitted.
    """

    refit: bool = True
    choose: bool = False
    norms: bool = True
    damp: float = 0.1
    widest: int = 8192
    tokens: int = 40_000


class Repaired(NamedTuple):
    """The cut with the channels that were chosen anew, and layers that were not refitted, with the reason."""

    cut: Cut
    skipped: dict[str, str]


@torch.no_grad()
def repair_(
    structure: ChannelStructure, cut: Cut, pixels: Tensor, repair: Repair, edits: Mapping[str, Edit] | None = None
) -> Repaired:
    """Overwrite weights and batch norms of the network so that, with the cut's columns at zero, it changes least.

    The dense and the pruned network run side by side as two halves of one batch. Each layer that
    reads removed channels is solved when it is reached, on the inputs that it will really have:

    Formula: min over W' of ||W X - W' X'||^2, X' the pruned inputs [Sun et al. 2023; ours for sites]

    pixels `[count, ...]`: all pictures at once. edits: what else changes, by the layer's name; each is made when its
    layer is reached, and what reads that layer's channels is solved as well.
    """
    run = _Pass(structure, cut, repair, edits or {})
    with ExitStack() as stack:
        stack.enter_context(evaluating(structure.model))
        for name, layer in structure.layers.items():
            if layer.axis is None:
                stack.enter_context(run.watched(name, layer))
        structure.model(torch.cat([pixels, pixels]))
    return Repaired(Cut(run.kept), run.skipped)


class _Pass:
    """One pass of both networks: `[dense; pruned]` along the batch."""

    def __init__(self, structure: ChannelStructure, cut: Cut, repair: Repair, edits: Mapping[str, Edit]) -> None:
        self.repair, self.edits = repair, edits
        self.kept = dict(cut.kept)
        cut_sites = [site for site in structure.sites if site.name in cut.kept]
        self.alone = lone_readers(structure, cut_sites) if repair.choose and repair.refit else {}
        self.gone = {name: part.columns for name, part in structure.slices(cut).items() if part.columns is not None}
        for site in structure.sites:
            if edits.keys() & site.rows.keys():  # its readers lose no column, and are solved all the same
                self.gone = {name: torch.empty(0, dtype=torch.long) for name in site.columns} | self.gone
        self.skipped: dict[str, str] = {}
        self.changed = False

    @contextmanager
    def watched(self, name: str, layer: Layer) -> Iterator[None]:
        """Let a module compute the pruned half with what was solved for it."""

        def hook(module: Any, args: Any, out: Tensor) -> Tensor | None:
            if name in self.edits:
                self.changed = True
                own = args[0][len(args[0]) // 2 :]
                self.edits[name](module, own)
                return torch.cat([out[: len(out) // 2], module.forward(own)])
            if name in self.gone:
                self.changed = True
                return self._solved(name, layer, args[0], out)
            if self.repair.norms and self.changed and isinstance(module, nn.modules.batchnorm._BatchNorm):
                return _corrected(module, args[0], out)
            return None

        handle = layer.module.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def _solved(self, name: str, layer: Layer, x: Tensor, out: Tensor) -> Tensor:
        """Solve a layer, keep what was solved, and compute the pruned half with it."""
        module: Any = layer.module
        half = len(x) // 2
        weight = layer.weight.clone()
        kept = torch.ones(weight.shape[1], dtype=torch.bool)
        kept[self.gone[name]] = False
        pruned = weight * kept
        if self.repair.refit and (why := self._unfit(module, weight)):
            self.skipped[name] = why
        elif self.repair.refit:
            dense, now = (tokens_of(module, part, self.repair.tokens) for part in (x[:half], x[half:]))
            if not understood(layer, dense, out[:half], self.repair.tokens):
                self.skipped[name] = f"a {type(module).__name__} computes otherwise than a plain layer"
            else:
                if name in self.alone:
                    kept = self._chosen(self.alone[name], weight, dense, now)
                pruned = _least_squares(weight, kept, dense, now, self.repair.damp)
        layer.set_weight(pruned)
        return torch.cat([out[:half], module.forward(x[half:])])

    def _chosen(self, site: Site, weight: Tensor, dense: Tensor, now: Tensor) -> Tensor:
        """Which columns stay when units are removed one after another, each the cheapest by then."""
        order = site.columns[site.layer].flatten()
        whole = _least_squares(weight, torch.ones(weight.shape[1], dtype=torch.bool), dense, now, self.repair.damp)
        ratio = 1 - len(self.kept[site.name]) / site.count
        solved = SlimGPT(damp=self.repair.damp).solve(
            whole[:, order], gather((Gram,), now[:, order]), site.pattern, ratio
        )
        units = solved.keep[0].reshape(site.count, -1).all(dim=1)
        self.kept[site.name] = tuple(units.nonzero().flatten().tolist())
        kept = torch.empty_like(solved.keep[0])
        kept[order] = solved.keep[0]
        return kept

    def _unfit(self, module: Any, weight: Tensor) -> str:
        if getattr(module, "groups", 1) > 1:
            return "it is a grouped convolution"
        if not isinstance(module, nn.Linear | nn.Conv2d):
            return f"it is a {type(module).__name__}"
        return f"it reads {weight.shape[1]:,} inputs" if weight.shape[1] > self.repair.widest else ""


def lone_readers(structure: ChannelStructure, sites: Iterable[Site]) -> dict[str, Site]:
    """Sites that one layer reads, which reads nothing else; by that layer's name."""
    read = {site.layer: site for site in sites if len(site.columns) == 1}
    return {
        name: site
        for name, site in read.items()
        if site.columns[name].numel() == structure.layers[name].weight.shape[1]
        and getattr(structure.layers[name].module, "groups", 1) == 1
    }


def _least_squares(weight: Tensor, kept: Tensor, dense: Tensor, now: Tensor, damp: float) -> Tensor:
    """min ||W X - W' X'||^2 + the damp's pull towards W, over W' with zeros where nothing is kept.

    With X' = X the pull is what makes a Gram of few tokens solvable; kept inputs that did not change
    keep their weights where nothing was removed.
    """
    gram = now.T @ now
    solved = torch.zeros_like(weight)
    small = damped(gram[kept][:, kept], damp)
    pull = small - gram[kept][:, kept]
    right = weight @ (dense.T @ now[:, kept]) + weight[:, kept] @ pull
    solved[:, kept] = torch.linalg.solve(small.double(), right.T.double()).T.to(weight.dtype)
    return solved


def _corrected(module: Any, x: Tensor, out: Tensor) -> Tensor | None:
    """Move a batch norm's statistics by how its input's changed, and compute the pruned half anew.

    Formula: mean + (mean' - mean''), var * var' / var'', of the pruned and the dense half [ours]

    Nothing changes where nothing was removed, so few pictures do no harm.
    """
    if module.running_mean is None:
        return None
    half = len(x) // 2
    dims = [dim for dim in range(x.dim()) if dim != 1]
    (dense_var, dense_mean), (var, mean) = (
        torch.var_mean(part, dim=dims, correction=0) for part in (x[:half], x[half:])
    )
    alive = dense_var > 1e-12
    module.running_mean += mean - dense_mean
    module.running_var *= torch.where(alive, var / dense_var.clamp_min(1e-12), 1.0).clamp(0.01, 100)
    return torch.cat([out[:half], module.forward(x[half:])])

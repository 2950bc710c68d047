"""describe_channels(model, example): the channel sites of a network, each tried on weights of its own."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from secateur.adapt.layer import Layer
from secateur.adapt.site import Site, Slice, site_slices
from secateur.convnet.sites import Grouped, channel_layers, channel_sites
from secateur.convnet.trace import Literal, Trace, evaluating, trace
from secateur.core.cut import Cut
from secateur.core.errors import InputError, ModelError
from secateur.core.seed import generator

__all__ = ["ChannelStructure", "Count", "describe_channels"]

_TOLERANCE = 1e-3  # of the largest output, in float32


class Count(NamedTuple):
    """An attribute of a module that counts channels: how many of them each unit of each site is.

    part: its place where the attribute is a list.
    """

    module: str
    attribute: str
    part: int | None
    units: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class ChannelStructure:
    """A network as layers and the sites at which channels can be removed.

    positions: at how many places of one sample each layer's weight is applied, which gives
    its multiply-accumulates. reasons: what keeps other channels, and how many groups of
    them. counts: attributes that say how many channels there are. residual: sites whose
    channels are sums, as residual additions make them.
    """

    model: nn.Module
    layers: Mapping[str, Layer]
    sites: tuple[Site, ...]
    positions: Mapping[str, int]
    reasons: Mapping[str, int]
    counts: tuple[Count, ...] = ()
    residual: frozenset[str] = frozenset()

    def site(self, name: str) -> Site:
        """A site by its name. Raises InputError where there is none."""
        for site in self.sites:
            if site.name == name:
                return site
        raise InputError(f"the network has no site {name!r}, such as {self.sites[0].name!r}")

    def slices(self, cut: Cut) -> dict[str, Slice]:
        """What goes of every layer that a cut touches; raises InputError on sites and units that are not there."""
        slices: dict[str, Slice] = {}
        for name, kept in cut.kept.items():
            for layer, part in site_slices(self.site(name), kept).items():
                slices[layer] = slices.get(layer, Slice()).joined(part, layer)
        return slices

    def attributes(self, cut: Cut) -> dict[str, dict[str, Any]]:
        """New values of attributes that count channels, by module and attribute."""
        changed: dict[str, dict[str, Any]] = {}
        for count in self.counts:
            gone = 0
            for name, each in count.units.items():
                if name in cut.kept:
                    kept = torch.zeros(len(each), dtype=torch.bool)
                    kept[list(cut.kept[name])] = True
                    gone += int(each[~kept].sum())
            own = changed.setdefault(count.module, {})
            value = own.get(count.attribute, getattr(self.model.get_submodule(count.module), count.attribute))
            if count.part is None:
                own[count.attribute] = value - gone
            else:
                values = list(value)
                values[count.part] -= gone
                own[count.attribute] = type(value)(values)
        return changed

    def shrink_(self, cut: Cut) -> None:
        """Remove what a cut does not keep from the model itself; the structure then describes what it was."""
        slices, attributes = self.slices(cut), self.attributes(cut)
        for name, gone in slices.items():
            self.layers[name].cut_(gone)
        for module, values in attributes.items():
            for attribute, value in values.items():
                setattr(self.model.get_submodule(module), attribute, value)

    def mask_(self, cut: Cut) -> None:
        """Zero the columns that read what a cut does not keep: the network then computes what the shrunk one does."""
        for name, gone in self.slices(cut).items():
            if gone.columns is not None:
                weight = self.layers[name].weight.clone()
                weight[:, gone.columns] = 0
                self.layers[name].set_weight(weight)

    def of(self, model: nn.Module) -> "ChannelStructure":
        """The same structure over another copy of the model."""
        own = {
            name: replace(layer, module=model.get_submodule(_owner(name, layer))) for name, layer in self.layers.items()
        }
        return replace(self, model=model, layers=own)


def describe_channels(model: nn.Module, example: Tensor) -> ChannelStructure:
    """The sites at which channels of a network can be removed, found by running it on `[batch, ...]`.

    Every site is tried: a copy with weights of its own, cut at all sites together, must compute
    what the masked copy does. Sites that fail are left out, and said in `reasons`. Raises
    ModelError where the network does not run, or where no channel can be removed.
    """
    traced = trace(model, example)
    layers = channel_layers(model, traced)
    grouped = channel_sites(layers, traced)
    sites = tuple(site for site, _ in grouped)
    residual = frozenset(site.name for site, groups in grouped if bool(traced.groups.added[groups].any()))
    reasons = dict(traced.groups.reasons)
    whole = ChannelStructure(model, layers, sites, traced.positions, reasons, residual=residual)
    counts = tuple(_count(literal, grouped, traced) for literal in traced.literals)
    found = _tried(whole, counts, example) if sites else whole
    if not found.sites:
        why = ", ".join(sorted(found.reasons, key=lambda reason: -found.reasons[reason])[:5])
        raise ModelError(f"{type(model).__name__} has no channel that can be removed; what keeps them: {why}")
    return found


def _tried(whole: ChannelStructure, counts: tuple[Count, ...], example: Tensor) -> ChannelStructure:
    """The structure with the sites that can be cut, with the attributes that have to change with them."""
    trial = _Trial(whole, example)
    for used in ((), counts) if counts else ((),):
        if trial.passes(whole.sites, used):
            return replace(whole, counts=used)
    plain = trial.passing(whole.sites, ())
    rest = [site for site in whole.sites if site not in plain]
    counted = trial.passing(rest, counts) if counts else []
    used = tuple(count for count in counts if any(site.name in count.units for site in counted))
    good = tuple(site for site in whole.sites if site in plain or site in counted)
    while good and not trial.passes(good, used):  # sites that pass alone and not together
        good = good[:-1]
    failed = [site.name for site in whole.sites if site not in good]
    reasons = {**whole.reasons, **{f"the trial run without half of {name}": 1 for name in failed}}
    return replace(whole, sites=good, counts=used, reasons=reasons)


class _Trial:
    """Runs of the shrunk and the masked network, with weights that hide nothing."""

    def __init__(self, structure: ChannelStructure, example: Tensor) -> None:
        self.model = copy.deepcopy(structure.model).float()
        self.structure = structure.of(self.model)
        self.example = example.float() if example.is_floating_point() else example
        stream = generator(0, "channel trial")
        with torch.no_grad():
            for value in (*self.model.parameters(), *self.model.buffers()):
                if value.is_floating_point():
                    _draw_(value, stream)

    def passes(self, sites: Sequence[Site], counts: tuple[Count, ...]) -> bool:
        """Whether the network cut at these sites computes what the masked one does."""
        cut = Cut({site.name: _half(site.count) for site in sites})
        copies = [replace(self.structure.of(copy.deepcopy(self.model)), counts=counts) for _ in range(2)]
        small, masked = copies
        try:
            small.shrink_(cut)
            got = _outputs(small.model, self.example)
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
            return False  # some size is written into the model's code
        masked.mask_(cut)
        expected = _outputs(masked.model, self.example)
        return all(_agree(one, other) for one, other in zip(expected, got, strict=True))

    def passing(self, sites: Sequence[Site], counts: tuple[Count, ...]) -> list[Site]:
        """The sites that can be cut, found by halves."""
        if not sites or self.passes(sites, counts):
            return list(sites)
        if len(sites) == 1:
            return []
        middle = len(sites) // 2
        return self.passing(sites[:middle], counts) + self.passing(sites[middle:], counts)


def _draw_(value: Tensor, stream: torch.Generator) -> None:
    """Weights of unit gain, and anything but zero or one where a scale, a shift or a statistic stands."""
    if value.dim() < 2:
        value.copy_(torch.empty_like(value, device="cpu").uniform_(0.5, 1.5, generator=stream))
    else:
        width = (2 / max(value[0].numel(), 1)) ** 0.5
        value.copy_(torch.empty_like(value, device="cpu").normal_(0, width, generator=stream))


def _half(count: int) -> tuple[int, ...]:
    """Half of the units, in no regular order, and one at least."""
    kept = torch.randperm(count, generator=generator(0, "channel trial", count))[: max(count // 2, 1)]
    return tuple(sorted(kept.tolist()))


def _outputs(model: nn.Module, example: Tensor) -> list[Tensor]:
    with torch.no_grad(), evaluating(model):
        return [leaf for leaf in torch.utils._pytree.tree_leaves(model(example)) if isinstance(leaf, Tensor)]


def _agree(expected: Tensor, got: Tensor) -> bool:
    if expected.shape != got.shape or not bool(torch.isfinite(expected).all()):
        return False
    return float((expected - got).abs().max()) <= _TOLERANCE * float(expected.abs().max())


def _count(literal: Literal, grouped: Sequence[Grouped], traced: Trace) -> Count:
    groups = traced.groups.of(literal.labels)
    units = {site.name: (own[:, None] == groups).sum(dim=1) for site, own in grouped}
    return Count(
        literal.module, literal.attribute, literal.part, {name: own for name, own in units.items() if own.any()}
    )


def _owner(name: str, layer: Layer) -> str:
    return name if layer.axis is None else name.rpartition(".")[0]

"""Channel sites: units that belong together, and the rows and columns each takes from every layer."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from secateur.adapt.layer import Layer
from secateur.adapt.site import Site
from secateur.convnet.labels import NOTHING, varying
from secateur.convnet.trace import Trace

__all__ = ["Grouped", "channel_layers", "channel_sites"]


class _Slot(NamedTuple):
    """One dimension of one layer: the group of every place, and how many entries of the matrix a place has."""

    layer: str
    rows: bool
    groups: Tensor
    each: int


def channel_layers(model: nn.Module, traced: Trace) -> dict[str, Layer]:
    """Every layer with channels: modules in the order in which they ran, then bare parameters and buffers."""
    names = dict.fromkeys((*traced.rows, *traced.columns))
    layers = {name: Layer(name, model.get_submodule(name)) for name in names}
    for name, own in traced.bare.items():
        axes = varying(traced.groups.free(own))
        if len(axes) == 1:
            owner, _, leaf = name.rpartition(".")
            layers[name] = Layer(name, model.get_submodule(owner), parameter=leaf, axis=axes[0])
    return layers


class Grouped(NamedTuple):
    """A site, and the group of labels that each of its units is, `[count]`."""

    site: Site
    groups: Tensor


def channel_sites(layers: Mapping[str, Layer], traced: Trace) -> list[Grouped]:
    """Sites of units that take equally many places of the same layers, in the order in which they are made.

    A unit takes rows of what makes it and columns of what reads it. What nothing reads,
    and what stands alone in its site, is left out: it could never be removed.
    """
    slots = list(_slots(layers, traced))
    places: dict[int, dict[int, list[int]]] = {}
    for number, slot in enumerate(slots):
        for place, group in enumerate(slot.groups.tolist()):
            if group != NOTHING:
                places.setdefault(group, {}).setdefault(number, []).append(place)
    families: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for group, unit in places.items():
        families.setdefault(tuple((number, len(unit[number])) for number in sorted(unit)), []).append(group)
    sites: list[Grouped] = []
    for signature, groups in families.items():
        used = [number for number, _ in signature]
        if len(groups) > 1 and _makes(slots, layers, used) and any(not slots[number].rows for number in used):
            groups.sort(key=lambda group: places[group][used[0]])
            site = _site(slots, used, [places[group] for group in groups], layers)
            sites.append(Grouped(site, torch.tensor(groups)))
    return _named(sites)


def _slots(layers: Mapping[str, Layer], traced: Trace) -> Iterator[_Slot]:
    free = traced.groups.free
    for name, own in traced.rows.items():
        yield _Slot(name, True, free(own), 1)
    for name, own in traced.columns.items():
        yield _Slot(name, False, free(own), prod(getattr(layers[name].module, "kernel_size", (1,))))
    for name, own in traced.bare.items():
        if name in layers:
            groups = free(own).movedim(layers[name].axis or 0, 0)
            yield _Slot(name, True, groups.reshape(len(groups), -1)[:, 0], 1)


def _makes(slots: list[_Slot], layers: Mapping[str, Layer], used: list[int]) -> bool:
    """Whether some convolution or linear layer makes the channels."""
    return any(slots[number].rows and layers[slots[number].layer].is_matrix for number in used)


def _site(slots: list[_Slot], used: list[int], units: list[dict[int, list[int]]], layers: Mapping[str, Layer]) -> Site:
    rows: dict[str, Tensor] = {}
    columns: dict[str, Tensor] = {}
    for number in used:
        slot = slots[number]
        index = torch.tensor([unit[number] for unit in units])
        index = (index[:, :, None] * slot.each + torch.arange(slot.each)).flatten(1)
        (rows if slot.rows else columns)[slot.layer] = index
    maker = next(name for name in rows if layers[name].is_matrix)
    weights = sum(index.shape[1] * _width(layers[name], 1) for name, index in rows.items())
    weights += sum(index.shape[1] * _width(layers[name], 0) for name, index in columns.items())
    return Site(maker, "channels", len(units), weights, rows, columns)


def _width(layer: Layer, dim: int) -> int:
    return 0 if getattr(layer.module, layer.parameter) is None else layer.weight.shape[dim]


def _named(sites: list[Grouped]) -> list[Grouped]:
    """Names of their own for sites whose channels one layer makes."""
    seen: dict[str, int] = {}
    named = []
    for site, groups in sites:
        seen[site.name] = seen.get(site.name, 0) + 1
        own = site.name if seen[site.name] == 1 else f"{site.name}/{seen[site.name]}"
        named.append(Grouped(replace(site, name=own), groups))
    return named

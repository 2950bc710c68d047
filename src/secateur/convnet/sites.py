"""Channel sites: units that belong together, and the rows and columns each takes from every layer."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn

from secateur.adapt.layer import Layer
from secateur.adapt.site import Site
from secateur.convnet.labels import NOTHING, varying
from secateur.convnet.trace import Trace

__all__ = ["Grouped", "channel_layers", "channel_sites"]


_Numbers = Int64[np.ndarray, "..."]


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
    group = np.concatenate([slot.groups.numpy() for slot in slots])
    number = np.repeat(np.arange(len(slots)), [len(slot.groups) for slot in slots])
    place = np.concatenate([np.arange(len(slot.groups)) for slot in slots])
    order = np.lexsort((place, number, group))  # unit after unit, each in the order of layers
    order = order[group[order] != NOTHING]
    group, number, place = group[order], number[order], place[order]
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    families: dict[bytes, list[tuple[int, int]]] = {}
    for start, end in pairwise([*starts.tolist(), len(group)]):
        families.setdefault(number[start:end].tobytes(), []).append((start, end))
    units = [_Units(group, number, place, spans) for spans in families.values()]
    sites = [
        Grouped(_site(slots, own, layers), torch.from_numpy(own.groups))
        for own in sorted(units, key=lambda own: (own.numbers[0], own.places[0, 0]))
        if len(own.groups) > 1 and _can_go(slots, layers, set(own.numbers.tolist()))
    ]
    return _named(sites)


class _Units:
    """Units that take equally many places of the same slots: `places` `[count, entries]`, `numbers` `[entries]`."""

    def __init__(self, group: _Numbers, number: _Numbers, place: _Numbers, spans: list[tuple[int, int]]) -> None:
        first, end = spans[0]
        index = np.array([start for start, _ in spans])[:, None] + np.arange(end - first)
        index = index[np.argsort(place[index[:, 0]], kind="stable")]
        self.numbers, self.groups, self.places = number[first:end], group[index[:, 0]], place[index]


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


def _can_go(slots: list[_Slot], layers: Mapping[str, Layer], used: set[int]) -> bool:
    """Whether some convolution or linear layer makes the channels, and something reads them."""
    made = any(slots[number].rows and layers[slots[number].layer].is_matrix for number in used)
    return made and any(not slots[number].rows for number in used)


def _site(slots: list[_Slot], units: _Units, layers: Mapping[str, Layer]) -> Site:
    rows: dict[str, Tensor] = {}
    columns: dict[str, Tensor] = {}
    for number in dict.fromkeys(units.numbers.tolist()):
        slot = slots[number]
        index = torch.from_numpy(units.places[:, units.numbers == number])
        index = (index[:, :, None] * slot.each + torch.arange(slot.each)).flatten(1)
        (rows if slot.rows else columns)[slot.layer] = index
    maker = next(name for name in rows if layers[name].is_matrix)
    weights = sum(index.shape[1] * _width(layers[name], 1) for name, index in rows.items())
    weights += sum(index.shape[1] * _width(layers[name], 0) for name, index in columns.items())
    return Site(maker, "channels", len(units.groups), weights, rows, columns)


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

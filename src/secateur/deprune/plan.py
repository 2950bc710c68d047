"""plan_budget, plan_ratio: how many channels every site keeps, and how many taps every depthwise convolution."""

from collections.abc import Mapping
from itertools import product
from typing import NamedTuple

from secateur.adapt.site import Site
from secateur.deprune.depthwise import Depthwise, Separable
from secateur.deprune.losses import Curves
from secateur.deprune.recipe import DepruneRecipe
from secateur.deprune.staircase import Choice, align_halves, cheapest_loss
from secateur.deprune.table import CostTable

__all__ = ["Plan", "dense_ms", "plan_budget", "plan_ratio"]

_WIDTHS = 12  # tried of a site, at most
_TILE = 32  # channels of the published rule


class Plan(NamedTuple):
    """Channels that stay by site; taps by layer, as a share of the kernel's."""

    widths: Mapping[str, int]
    taps: Mapping[str, float]


class _Option(NamedTuple):
    """One way to leave a site and its kernels, or a kernel that stands alone."""

    choice: Choice
    width: int | None
    taps: int | None


def dense_ms(parts: Separable, table: CostTable) -> float:
    """Milliseconds of the whole network by the table."""
    return _fixed(parts, table) + sum(_cost(table, group, None, None) for group in _groups(parts))


def plan_budget(parts: Separable, table: CostTable, curves: Curves, recipe: DepruneRecipe, limit: float) -> Plan:
    """The least loss within `limit` milliseconds, by an exact knapsack. Raises RatioError where it is out of reach."""
    groups = _groups(parts)
    options = [_options(group, table, curves, recipe) for group in groups]
    chosen = cheapest_loss([[option.choice for option in own] for own in options], limit - _fixed(parts, table))
    widths: dict[str, int] = {}
    taps: dict[str, float] = {}
    for group, own, place in zip(groups, options, chosen, strict=True):
        option = own[place]
        if group.site is not None and option.width is not None:
            widths[group.site.name] = option.width
        for kernel in group.kernels:
            if option.taps is not None:
                taps[kernel.name] = option.taps / kernel.taps
    return Plan(widths, taps)


def plan_ratio(parts: Separable, recipe: DepruneRecipe) -> Plan:
    """The same share of every layer; `halves` rounds balanced taps by the published rule."""
    widths = {site.name: _rounded(site.count * (1 - recipe.channels), site.count, recipe) for site in parts.sites}
    if recipe.taps == "none" or recipe.ratio is None:
        return Plan(widths, {})
    ratio: float = recipe.ratio
    if not recipe.halves:
        return Plan(widths, {own.name: 1 - ratio for own in parts.kernels})
    whole = [_TILE * own.taps for own in parts.kernels]
    kept = [size - round(ratio * size) for size in whole]
    gains = [
        float(parts.structure.positions.get(own.name, 1) * -(-own.module.out_channels // _TILE))
        for own in parts.kernels
    ]
    aligned = align_halves(kept, whole, gains, _TILE)
    return Plan(
        widths, {own.name: stays / size for own, stays, size in zip(parts.kernels, aligned, whole, strict=True)}
    )


class _Group(NamedTuple):
    """A site with the kernels of its channels, or a kernel alone; `layers` are timed for it."""

    site: Site | None
    kernels: tuple[Depthwise, ...]
    layers: tuple[str, ...]
    width: int


def _groups(parts: Separable) -> list[_Group]:
    """Every layer stands in the group of the first site that has it, as the table counts widths."""
    owner = {name: site.name for site in reversed(parts.sites) for name in (*site.rows, *site.columns)}
    groups = []
    for site in parts.sites:
        layers = (*site.rows, *site.columns)
        own = tuple(name for name in dict.fromkeys(layers) if owner[name] == site.name and _is_timed(parts, name))
        groups.append(_Group(site, tuple(k for k in parts.kernels if owner.get(k.name) == site.name), own, site.count))
    alone = [kernel for kernel in parts.kernels if kernel.name not in owner]
    return groups + [_Group(None, (own,), (own.name,), own.module.out_channels) for own in alone]


def _fixed(parts: Separable, table: CostTable) -> float:
    """Milliseconds of what no choice changes: what the table has beyond the groups' layers, as it is dense."""
    grouped = {name for group in _groups(parts) for name in group.layers}
    rest = [name for name in table.layers if name not in grouped]
    return table.other + sum(max(table.layers[name])[2] for name in rest)


def _is_timed(parts: Separable, name: str) -> bool:
    """Whether a layer has times of its own; norms are counted with what is before them."""
    return name in parts.structure.layers and parts.structure.layers[name].is_matrix


def _cost(table: CostTable, group: _Group, width: int | None, taps: int | None) -> float:
    """Milliseconds of a group; None is what the dense network has."""
    kernels = {own.name: own.taps for own in group.kernels}
    return sum(
        table.ms(name, width or group.width, min(taps or kernels[name], kernels[name]) if name in kernels else 1)
        for name in group.layers
    )


def _options(group: _Group, table: CostTable, curves: Curves, recipe: DepruneRecipe) -> list[_Option]:
    """What a group may keep; what costs more and loses more than another is left out."""
    widths: list[int | None] = [None]
    if group.site is not None:
        step = max(recipe.multiple, -(-group.width // _WIDTHS // recipe.multiple) * recipe.multiple)
        least = _rounded(recipe.least * group.width, group.width, recipe)
        widths = [*range(least, group.width, step), group.width]
    taps: list[int | None] = [None]
    if group.kernels and recipe.taps != "none":
        most = max(own.taps for own in group.kernels)
        taps = [*range(max(1, round(recipe.least * most)), most + 1)]
    found = []
    for width, kept in product(widths, taps):
        loss = 0.0
        if group.site is not None and width is not None:
            loss += curves.channels[group.site.name].at(1 - width / group.width)
        if kept is not None:
            loss += sum(curves.taps[own.name].at(max(0.0, 1 - kept / own.taps)) for own in group.kernels)
        found.append(_Option(Choice(_cost(table, group, width, kept), loss), width, kept))
    best: list[_Option] = []
    for option in sorted(found, key=lambda option: option.choice):
        if not best or option.choice.loss < best[-1].choice.loss:
            best.append(option)
    return best


def _rounded(wanted: float, count: int, recipe: DepruneRecipe) -> int:
    """Channels that stay: a multiple, at least one of it, and never more than there are."""
    return min(count, max(1, int(wanted / recipe.multiple + 0.5)) * recipe.multiple)

"""choose_widths(structure, scores, budget, ...) -> Cut: how many channels every site keeps, and which."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from secateur.adapt.site import Site
from secateur.convnet.costs import costs
from secateur.convnet.structure import ChannelStructure
from secateur.core.budget import Budget
from secateur.core.cut import Cut
from secateur.core.errors import InputError, RatioError

__all__ = ["Widths", "choose_widths", "global_widths", "knapsack_widths", "uniform_widths"]

Widths = Mapping[str, int]
_STEPS = 60  # halvings of the share that is removed


def choose_widths(
    structure: ChannelStructure,
    scores: Mapping[str, Tensor],
    budget: Budget,
    widths: Callable[[Mapping[str, Tensor], float], Mapping[str, float]],
    *,
    multiple: int = 1,
    least: float = 0.1,
) -> Cut:
    """The cut that keeps as much as the budget allows, at sites that have scores; it never costs more.

    widths: how many channels each site keeps, before rounding, when a share is removed.
    multiple: widths are rounded to it; least: share of its channels that every site keeps.
    budget: of macs, params or bytes; a limit up to 1 is a share of the dense network's.
    Raises RatioError where even the smallest network costs more.
    """
    if budget.unit == "ms":
        raise InputError("a budget in ms is for prune_network, which times the network: give macs, params or bytes")
    sites = [site for site in structure.sites if site.name in scores]

    def cost(kept: Widths) -> int:
        return int(getattr(costs(structure, kept), budget.unit))

    dense = cost({})
    limit = budget.limit * dense if budget.limit <= 1 else budget.limit
    smallest = {site.name: _floor(site, multiple, least) for site in sites}
    if cost(smallest) > limit:
        raise RatioError(
            f"budget {limit:,.0f} {budget.unit} is out of reach: the network has {dense:,}, and keeps "
            f"{cost(smallest):,} with {least:g} of the channels of every site"
        )

    def rounded(share: float) -> dict[str, int]:
        wanted = widths(scores, share)
        return {site.name: _whole(wanted[site.name], site, multiple, smallest[site.name]) for site in sites}

    low, high = 0.0, 1.0
    if cost(rounded(0.0)) <= limit:
        return _cut(sites, scores, rounded(0.0))
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if cost(rounded(middle)) <= limit else (middle, high)
    return _cut(sites, scores, _filled(sites, rounded(high), rounded(low), cost, limit, multiple))


def uniform_widths(scores: Mapping[str, Tensor], share: float) -> Mapping[str, float]:
    """Every site loses the same share."""
    return {name: len(own) * (1 - share) for name, own in scores.items()}


def global_widths(scores: Mapping[str, Tensor], share: float) -> Mapping[str, float]:
    """The lowest scores of all sites are removed; each site's are divided by their mean first.

    Formula: s_c / mean of its site [Molchanov et al. 2017, with the mean for the norm]
    """
    scaled = {name: own / own.mean().clamp_min(torch.finfo(own.dtype).tiny) for name, own in scores.items()}
    every = torch.cat(list(scaled.values())).sort().values
    gone = min(int(share * len(every)), len(every) - 1)
    threshold = every[gone]
    return {name: float((own >= threshold).sum()) for name, own in scaled.items()}


def knapsack_widths(
    structure: ChannelStructure, unit: str
) -> Callable[[Mapping[str, Tensor], float], Mapping[str, float]]:
    """Channels whose score is least for what they cost are removed first: most is saved for the loss that is taken.

    Formula: s_c / (F - F without c), in order [Dantzig 1957, of scores that are losses]

    A channel's cost is that in the dense network, where others have not been removed yet. Scores of all sites are
    taken as they are, so they should be losses, as taylor's are.
    """
    dense = getattr(costs(structure), unit)
    prices = {
        site.name: float(dense - getattr(costs(structure, {site.name: site.count - 1}), unit))
        for site in structure.sites
    }

    def widths(scores: Mapping[str, Tensor], share: float) -> Mapping[str, float]:
        worth = torch.cat([own.double() / max(prices[name], 1e-12) for name, own in scores.items()])
        saved = torch.cat([torch.full((len(own),), prices[name]).double() for name, own in scores.items()])
        order = worth.argsort(stable=True)
        gone = saved[order].cumsum(0) <= share * saved.sum()  # a share of what all channels cost
        removed = torch.zeros(len(worth), dtype=torch.bool)
        removed[order[gone]] = True
        parts = removed.split([len(own) for own in scores.values()])
        return {name: float((~part).sum()) for name, part in zip(scores, parts, strict=True)}

    return widths


def _floor(site: Site, multiple: int, least: float) -> int:
    """The fewest channels a site keeps: its share rounded up, but never more than it has."""
    wanted = max(1, least * site.count)
    return min(site.count, -(-int(-(-wanted // 1)) // multiple) * multiple)


def _whole(wanted: float, site: Site, multiple: int, fewest: int) -> int:
    """A width rounded down to the multiple; a site that keeps everything may have a width that is none."""
    if wanted >= site.count:
        return site.count
    return max(int(wanted + 1e-9) // multiple * multiple, fewest)


def _filled(
    sites: list[Site], kept: dict[str, int], more: Widths, cost: Callable[[Widths], int], limit: float, multiple: int
) -> dict[str, int]:
    """Widen site after site, where the next larger choice was wider, as long as the limit allows."""
    for site in sites:
        for wider in range(kept[site.name] + multiple, more[site.name] + 1, multiple):
            if cost({**kept, site.name: wider}) > limit:
                break
            kept[site.name] = wider
    return kept


def _cut(sites: list[Site], scores: Mapping[str, Tensor], kept: Widths) -> Cut:
    """The best channels of every site that loses some; of equal scores, the earlier stay."""
    chosen: dict[str, Any] = {}
    for site in sites:
        if kept[site.name] < site.count:
            best = scores[site.name].argsort(descending=True, stable=True)[: kept[site.name]]
            chosen[site.name] = tuple(sorted(best.tolist()))
    return Cut(chosen)

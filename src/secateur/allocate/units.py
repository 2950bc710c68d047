"""Ratios of blocks to whole units of their sites, exact to one unit over the model."""

from collections.abc import Mapping, Sequence

from secateur.adapt.site import Site
from secateur.core.errors import RatioError

__all__ = ["count_equal_units", "count_units"]


def count_units(
    blocks: Mapping[str, Sequence[Site]], ratios: Mapping[str, float], weights: Mapping[str, int], round_to: int = 1
) -> dict[str, int]:
    """How many units of every site stay.

    A block's heads go by its ratio, rounded to what must go at once; its channels
    make up for the rounding, and what they cannot is carried to the next blocks and
    at last back to earlier ones, so that the sum over the model meets the target to
    one step. Equal ratios give equal blocks, which load anywhere: there each block
    meets the target to one step by itself. Channels stay in multiples of round_to;
    every site keeps one step; a block of ratio 0 is left alone. Raises RatioError when that is not enough.
    """
    kept: dict[str, int] = {}
    owed = 0.0
    channels: list[Site] = []
    equal = len(set(ratios.values())) == 1
    for name, sites in blocks.items():
        # Equal ratios must give equal blocks, so there nothing is carried from one to the next.
        owed = ratios[name] * weights[name] + (0.0 if equal else owed)
        for site in sites:
            kept[site.name] = site.count
            if ratios[name] == 0:
                continue
            if site.kind == "ffn":
                owed -= _take(site, owed, kept, round_to)
                channels.append(site)
            else:
                runs = site.count // site.step
                gone = min(round(ratios[name] * runs), runs - 1) * site.step  # one run stays
                kept[site.name] -= gone
                owed -= gone * site.weights
    for site in [] if equal else reversed(channels):  # back to front: what the last blocks could not take
        owed -= _take(site, owed, kept, round_to)
    if channels and owed > min(site.weights for site in channels) * round_to:
        target = sum(ratios[name] * weights[name] for name in blocks)
        raise RatioError(
            f"{target:,.0f} weights are to go, but {owed:,.0f} of them cannot: every site keeps a unit, and some "
            "blocks are exempt; ask for less"
        )
    return kept


def _take(site: Site, owed: float, kept: dict[str, int], round_to: int) -> int:
    """Remove (or give back) channels for what is owed, leaving a multiple of round_to; return the weights gone."""
    before, step = kept[site.name], min(round_to, site.count)
    ideal = before - owed / site.weights
    after = site.count if ideal >= site.count else max(round(ideal / step), 1) * step
    kept[site.name] = min(after, site.count)
    return (before - kept[site.name]) * site.weights


def count_equal_units(
    blocks: Mapping[str, Sequence[Site]], ratio: float, weights: Mapping[str, int], round_to: int = 1
) -> dict[str, int]:
    """How many units of every site stay where one config field counts those of all blocks.

    Sites of as many units of one kind keep equally many. Heads go by the ratio, channels make up for the rest, as well
    as whole steps allow. Raises RatioError where the sites hold too little.
    """
    groups: dict[tuple[bool, str, int], list[Site]] = {}
    for sites in blocks.values():
        for site in sites:
            groups.setdefault((site.kind == "ffn", site.kind, site.count), []).append(site)
    owed, kept = ratio * sum(weights.values()), dict[str, int]()
    ordered = [groups[key] for key in sorted(groups)]  # heads first
    for place, group in enumerate(ordered):
        each, count = sum(site.weights for site in group), group[0].count
        if group[0].kind == "ffn":
            step = min(round_to, count)
            left = sum(site.weights * site.count for other in ordered[place:] for site in other)
            gone = min(round(owed / left * count / step), (count - 1) // step) * step
        else:
            step, gone = 1, min(round(ratio * count), count - 1)
        kept |= {site.name: count - gone for site in group}
        owed -= gone * each
        spare = each * step
    if ordered and owed > spare:
        total = sum(weights.values())
        raise RatioError(
            f"{ratio:g} of {total:,} weights are to go, and {owed:,.0f} of them cannot: heads and channels that can be "
            "removed hold too few; ask for less"
        )
    return kept

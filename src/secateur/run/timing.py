"""Budgets in milliseconds: time the model at a few sizes on this machine, and read off the ratio."""

import statistics
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from transformers import PreTrainedModel

from secateur.adapt.structure import Structure
from secateur.core.cut import Cut
from secateur.core.errors import RatioError
from secateur.evaluate.latency import torch_speed
from secateur.machine.ranks import place, shared
from secateur.run.recipe import Recipe
from secateur.run.targets import choose_targets
from secateur.storage.source import Source, check_language, open_whole
from secateur.surgery.shrink import shrink_

__all__ = ["ratio_within", "time_sizes", "timed"]

_RATIOS = (0.0, 0.25, 0.5, 0.75)
_PROMPT, _NEW, _ROUNDS = 128, 8, 5


def timed(recipe: Recipe, source: Source, known: float | None = None) -> Recipe:
    """The recipe with the ratio its budget in ms comes to; other recipes as they are.

    `known` is what an interrupted run had found, so that it goes on alike.
    """
    if recipe.budget is None or recipe.limit().unit != "ms":
        return recipe
    if known is None:
        first = place()[0] == 0  # others would time this one's work too
        known = shared(ratio_within(time_sizes(source, recipe), recipe.limit().limit) if first else None)
    return replace(recipe, timed_ratio=known)


def time_sizes(source: Source, recipe: Recipe) -> dict[float, float]:
    """Milliseconds a decoded token (batch 1, after a prompt of 128 or half the positions, float32), by ratio removed.

    All sizes take turns, so that a slow moment hits each alike; every size is a whole model in memory.
    """
    models: dict[float, PreTrainedModel] = {}
    for ratio in _RATIOS:
        structure = open_whole(source, torch.float32)
        check_language(structure.model, "a budget in ms is of tokens that it writes: give a ratio or params")
        models[_shrunk(structure, recipe, ratio) if ratio else 0.0] = structure.model
    positions = getattr(next(iter(models.values())).config, "max_position_embeddings", None) or 2 * _PROMPT
    prompt = min(_PROMPT, positions // 2)
    turns = [
        {ratio: 1000 / torch_speed(model, 1, prompt, _NEW).decode for ratio, model in models.items()}
        for _ in range(_ROUNDS)
    ]
    return {ratio: statistics.median(turn[ratio] for turn in turns) for ratio in models}


def _shrunk(structure: Structure, recipe: Recipe, ratio: float) -> float:
    """Take units off every site, any of them; return the share of block weights that went."""
    plain = replace(recipe, budget=None, ratio=ratio, allocator="uniform", ratios={}, exempt=())
    targets = choose_targets(structure, plain, 1)
    kept: dict[str, tuple[int, ...]] = {}
    for site in targets.sites:
        if site.layer in targets.layers:
            pattern, share = targets.layers[site.layer]
            alike = torch.zeros(1, site.columns[site.layer].numel())  # equal scores: speed does not depend on which go
            kept[site.name] = site.pattern.units(pattern.keep(alike, share))
    shrink_(structure, targets.sites, Cut(kept))
    gone = sum((site.count - len(kept[site.name])) * site.weights for site in targets.sites if site.name in kept)
    return gone / targets.weights


def ratio_within(times: Mapping[float, float], limit: float) -> float:
    """The least ratio whose time, on the straight line through the measured ones, is within the limit.

    Raises RatioError naming what can be reached, and where removing weights saves no time.
    """
    ratios = np.array(sorted(times))
    slope, dense = np.polyfit(ratios, [times[ratio] for ratio in ratios], 1)  # a line evens out noise of single timings
    least = dense + slope * ratios[-1]
    if slope >= 0:
        raise RatioError(
            f"smaller blocks do not run faster here ({dense:.2f} and {least:.2f} ms): give a ratio instead"
        )
    if not least - 1e-9 <= limit <= dense + 1e-9:
        raise RatioError(
            f"budget of {limit:g} ms a token is not between {least:.2f} ms, with {ratios[-1]:.0%} of the block weights "
            f"gone, and the dense model's {dense:.2f} ms"
        )
    return min(max(float((limit - dense) / slope), 0.0), 1.0)

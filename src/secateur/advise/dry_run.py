"""The plan of a pruning run, without the work: layers, ratios, sizes, and estimates of time and memory."""

import time
from pathlib import Path
from typing import Any

import torch

from secateur.run.plan import Plan, compute_dtype, make_plan
from secateur.run.recipe import Recipe
from secateur.run.timing import timed
from secateur.storage.memory import resident_memory_mb
from secateur.storage.open_model import OpenModel, open_model
from secateur.storage.source import Source, resolve

__all__ = ["plan_run", "product_speed"]

_TURNS = 5
# SlimGPT's whole run takes 1.68 times its calibration passes, measured (benchmarks/results/calibration.json). Passes
# take more than their products: those are 78% of the time (products.json).
_AROUND, _PRODUCTS = 1.68, 0.78


def plan_run(model: str | Path | Source, recipe: Recipe, *, trusted: bool = False) -> dict[str, Any]:
    """What `prune` would do with this recipe. Reads headers alone, and times one matrix product.

    Sizes are exact where ratios are known before the run. seconds and memory_mb are estimates. Raises the errors that
    `prune` would raise for a recipe that does not fit the model.
    """
    source = resolve(model, trusted=trusted)
    recipe = timed(recipe, source)
    opened = open_model(source, compute_dtype(recipe))
    plan = make_plan(recipe, opened)
    size, bytes_before = opened.checkpoint.size()
    removed = _removed(plan, opened)
    smaller = bool(plan.targets.sites) or recipe.whole_blocks()
    length = recipe.calibration.fitted(opened.structure.model.config).length or 0
    tokens = recipe.calibration.samples * length if plan.solver.needs or plan.calibrated else 0
    layers = [
        {
            "name": name,
            "pattern": str(target.pattern),
            "ratio": target.ratio,
            "weights": opened.structure.layer(name).weight.numel(),
        }
        for name, target in plan.targets.layers.items()
    ]
    return {
        "model": str(model),
        "blocks": len(opened.structure.blocks),
        "layers": layers,
        "ratios_known": not plan.calibrated,
        "block_weights": plan.targets.weights,
        "removed_weights": removed,
        "parameters": [size, size - removed if smaller else size],
        "bytes": [bytes_before, bytes_before - removed * opened.bytes_each() if smaller else bytes_before],
        "calibration_tokens": tokens,
        "seconds": _seconds(plan, tokens),
        "memory_mb": _memory(plan, opened, tokens),
    }


def _removed(plan: Plan, opened: OpenModel) -> int:
    """Weights that the targets remove; whole blocks by their share."""
    targets, sizes = plan.targets, {site.layer: site for site in plan.targets.sites}
    if plan.recipe.whole_blocks():
        return round(plan.recipe.target() * targets.weights)
    if sizes:
        return sum(round(one.ratio * sizes[name].count) * sizes[name].weights for name, one in targets.layers.items())
    return sum(round(one.ratio * opened.structure.layer(name).weight.numel()) for name, one in targets.layers.items())


def product_speed(dtype: torch.dtype = torch.float32, size: int = 768) -> float:
    """Floating-point operations a second of a square product here, the best of a few."""
    x = torch.ones(size, size, dtype=dtype)
    turns = []
    for _ in range(_TURNS):
        begun = time.perf_counter()
        torch.mm(x, x)
        turns.append(time.perf_counter() - begun)
    return 2 * size**3 / min(turns)


def _seconds(plan: Plan, tokens: int) -> float:
    """Seconds of a run by its calibration passes: two operations a weight and token, at the speed measured here."""
    passes = 2 if plan.calibrated else 1
    return passes * 2 * plan.targets.weights * tokens / product_speed() / _PRODUCTS * _AROUND


def _memory(plan: Plan, opened: OpenModel, tokens: int) -> float:
    """MB that a run holds at least: what is held now, a block, its Gram matrices, activations, one batch in flight."""
    block = max(sum(layer.weight.numel() for layer in block.layers) for block in opened.structure.blocks)
    widest = max(layer.weight.shape[1] for block in opened.structure.blocks for layer in block.layers)
    config, batch = opened.structure.model.config, plan.recipe.batch_tokens if tokens else 0
    hidden, heads = (int(getattr(config, name, 0) or 0) for name in ("hidden_size", "num_attention_heads"))
    length = plan.recipe.calibration.fitted(config).length or 0
    flying = batch * (6 * widest + heads * length)  # what a block computes of one batch, attention's scores included
    held = 4 * (3 * block + 6 * widest**2 + 2 * tokens * hidden + flying)  # float32; Grams, inverses, their products
    return resident_memory_mb() + held / 1e6

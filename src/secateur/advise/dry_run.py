"""The plan of a pruning run, without the work: layers, ratios, sizes, and estimates of time and memory."""

import time
from pathlib import Path
from typing import Any

import torch

from secateur.experts.drop import check_experts, removed_weights
from secateur.experts.dropping import DropExperts
from secateur.infer.blocks import probe_samples, reads_pictures, tokens_each
from secateur.machine.memory import resident_memory_mb
from secateur.run.plan import Plan, compute_dtype, make_plan
from secateur.run.recipe import Recipe
from secateur.run.timing import timed
from secateur.solve.shortgpt import ShortGPT
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
    gone = _gone(plan, opened, removed)
    tokens = recipe.calibration.samples * _length(plan, opened) if plan.reads_text else 0
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
        "parameters": [size, size - gone],
        "bytes": [bytes_before, bytes_before - gone * opened.bytes_each()],
        "calibration_tokens": tokens,
        "seconds": _seconds(plan, tokens),
        "memory_mb": _memory(plan, opened, tokens),
    }


def _length(plan: Plan, opened: OpenModel) -> int:
    """Tokens of a calibration sample."""
    model = opened.structure.model
    if reads_pictures(model):
        return tokens_each(probe_samples(model, 1))
    return plan.recipe.calibration.fitted(model.config).length or 0


def _removed(plan: Plan, opened: OpenModel) -> int:
    """Weights that the targets remove; of whole blocks as many times the mean."""
    targets, sizes = plan.targets, {site.layer: site for site in plan.targets.sites}
    if plan.recipe.whole_blocks():
        return round(_share(plan, opened) * targets.weights)
    if isinstance(plan.solver, DropExperts):
        return removed_weights(opened, check_experts(opened, plan.solver, plan.recipe.target())[2])
    if sizes:
        return sum(round(one.ratio * sizes[name].count) * sizes[name].weights for name, one in targets.layers.items())
    return sum(round(one.ratio * opened.structure.layer(name).weight.numel()) for name, one in targets.layers.items())


def _gone(plan: Plan, opened: OpenModel, removed: int) -> int:
    """Parameters that are not written: removed weights, and norms of whole blocks; none where weights become 0."""
    if plan.recipe.whole_blocks():
        inside = sum(one.numel() for block in opened.structure.blocks for one in block.module.parameters())
        return round(_share(plan, opened) * inside)
    return removed if plan.targets.sites or plan.recipe.whole_experts() else 0


def _share(plan: Plan, opened: OpenModel) -> float:
    """The share of blocks that go, where whole ones do."""
    blocks = len(opened.structure.blocks)
    return 1 - len(ShortGPT().keep([0.0] * blocks, plan.recipe.target())) / blocks


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
    length = _length(plan, opened)
    flying = batch * (6 * widest + heads * length)  # what a block computes of one batch, attention's scores included
    held = 4 * (3 * block + 6 * widest**2 + 2 * tokens * hidden + flying)  # float32; Grams, inverses, their products
    return resident_memory_mb() + held / 1e6

"""How much where, for a whole model: survey the dense blocks if the allocator asks, then say every layer's ratio."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from secateur.adapt.adapter import Adapter
from secateur.adapt.positions import check_ids
from secateur.storage.source import Source, load_model, load_tokenizer, resolve, skeleton
from secateur.allocate.problem import CalibratedAllocator, Problem
from secateur.calibrate.sensitivity import Sensitivity, output_sensitivity
from secateur.calibrate.stream import Stream, StreamSettings
from secateur.calibrate.survey import survey
from secateur.core.allocation import Allocation
from secateur.core.errors import CalibrationError
from secateur.core.shapes import TokenIds
from secateur.run.recipe import Recipe
from secateur.run.targets import allocate, block_weights, ratio_for
from secateur.run.timing import timed
from secateur.storage.shards import Checkpoint
from secateur.storage.weights import Weights

__all__ = ["Survey", "allocate_model", "open_stream", "read_blocks", "saved_dtype", "stream_settings", "survey_model"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Survey:
    """A checkpoint, the sizes of what can be pruned, and what an allocator read of its dense blocks."""

    weights: Weights
    problem: Problem
    recipe: Recipe

    def ratios(self, target: float | None = None) -> Allocation:
        """The ratio of every layer, for the recipe's own target unless another is given."""
        if target is None:
            target = ratio_for(self.weights.adapter, self.recipe, self.weights.bytes_each())
        return Allocation(allocate(self.recipe, self.problem, target))


def allocate_model(
    model: str | Path | Source, recipe: Recipe, *, ids: TokenIds | None = None, progress: Progress | None = None
) -> Allocation:
    """The ratio of every layer that `prune` with this recipe would use. Raises a SecateurError on bad input."""
    return survey_model(model, recipe, ids=ids, progress=progress).ratios()


def survey_model(
    model: str | Path | Source, recipe: Recipe, *, ids: TokenIds | None = None, progress: Progress | None = None
) -> Survey:
    """What the recipe's allocator reads of a model; ratios of several targets can follow from it."""
    source = resolve(model)
    recipe = timed(recipe, source)
    weights = Weights(Checkpoint(source.folder), Adapter(skeleton(source)), compute_dtype(recipe))
    if ids is None and isinstance(recipe.build_allocator(), CalibratedAllocator):
        ids = recipe.calibration.fitted(weights.adapter.model.config).draw(load_tokenizer(source))
    return read_blocks(weights, recipe, source, ids, progress or (lambda done, total: None))


def read_blocks(weights: Weights, recipe: Recipe, source: Source, ids: TokenIds | None, progress: Progress) -> Survey:
    """The same for a checkpoint that is open; one streamed dense pass if the allocator reads blocks."""
    adapter, allocator = weights.adapter, recipe.build_allocator()
    problem = block_weights(adapter, biases=recipe.unit() is not None)
    if isinstance(allocator, CalibratedAllocator) and ids is not None:
        needs = [kind for kind in allocator.needs if kind is not Sensitivity]
        with open_stream(adapter, recipe, ids) as stream:  # checks the ids before any model reads them
            given = {}
            if Sensitivity in allocator.needs:
                given = output_sensitivity(Adapter(load_model(source, weights.dtype)), ids)
            summaries = survey(stream, weights, needs, allocator.watch, allocator.read, progress, given)
        problem = problem._replace(summaries=summaries)
    return Survey(weights, problem, recipe)


def open_stream(adapter: Adapter, recipe: Recipe, ids: TokenIds) -> Stream:
    """A stream of these ids. Raises CalibrationError when there are none, InputError outside the vocabulary."""
    if ids.numel() == 0:
        raise CalibrationError(f"calibration ids of shape {list(ids.shape)} are empty: need at least 1 x 2")
    check_ids(ids, adapter.model.config, "calibration")
    return Stream(adapter, ids, stream_settings(recipe))


def stream_settings(recipe: Recipe) -> StreamSettings:
    """How activations are held: tokens a batch, bytes before spilling."""
    return StreamSettings(recipe.batch_tokens, int(recipe.memory_gb * 2**30))


def saved_dtype(recipe: Recipe) -> torch.dtype | None:
    """What weights are written as; None where each keeps the checkpoint's own."""
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    return kinds.get(recipe.save_dtype)


def compute_dtype(recipe: Recipe) -> torch.dtype:
    """What forward passes compute in: float32 unless the recipe asks for bfloat16."""
    return torch.bfloat16 if recipe.dtype == "bfloat16" else torch.float32

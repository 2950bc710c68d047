"""How much where, for a whole model: survey the dense blocks if the allocator asks, then say every layer's ratio."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from secateur.adapt.positions import check_ids
from secateur.adapt.structure import Structure
from secateur.allocate.problem import Allocator, CalibratedAllocator, JudgedAllocator, Problem
from secateur.calibrate.backward import gather_backward, split_needs
from secateur.calibrate.data import draw_for
from secateur.calibrate.stream import Stream, StreamSettings
from secateur.calibrate.survey import BlockReader, survey
from secateur.core.allocation import Allocation
from secateur.core.errors import CalibrationError, InputError
from secateur.core.pattern import NM
from secateur.core.shapes import Samples
from secateur.events import stage
from secateur.infer.blocks import reads_pictures
from secateur.judged.auto import AutoUnits
from secateur.judged.masked import MaskedModel
from secateur.judged.units import MaskedUnits
from secateur.machine.device import pick_device
from secateur.run.plan import compute_dtype, half_products, stream_settings
from secateur.run.recipe import Recipe
from secateur.run.targets import allocate, block_weights, ratio_for, unit_targets
from secateur.run.timing import timed
from secateur.storage.open_model import OpenModel, open_model
from secateur.storage.source import Source, check_language, resolve

__all__ = ["Survey", "allocate_model", "open_stream", "read_blocks", "survey_model"]

Progress = Callable[[int, int], None]
_RUN = 16  # tokens in a row that two windows of a text have in common only where they overlap
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Survey:
    """An open model, the sizes of what can be pruned, and what an allocator read of its dense blocks."""

    opened: OpenModel
    problem: Problem
    recipe: Recipe

    def ratios(self, target: float | None = None) -> Allocation:
        """The ratio of every layer, for the recipe's own target unless another is given."""
        if target is None:
            target = ratio_for(self.opened.structure, self.recipe, self.opened.bytes_each())
        return Allocation(allocate(self.recipe, self.problem, target))


def allocate_model(
    model: str | Path | Source, recipe: Recipe, *, ids: Samples | None = None, progress: Progress | None = None
) -> Allocation:
    """The ratio of every layer that `prune` with this recipe would use. Raises a SecateurError on bad input."""
    return survey_model(model, recipe, ids=ids, progress=progress).ratios()


def survey_model(
    model: str | Path | Source, recipe: Recipe, *, ids: Samples | None = None, progress: Progress | None = None
) -> Survey:
    """What the recipe's allocator reads of a model; ratios of several targets can follow from it."""
    source = resolve(model)
    recipe = timed(recipe, source)
    opened = open_model(source, compute_dtype(recipe), pick_device(recipe.device))
    if ids is None and isinstance(recipe.build_allocator(), CalibratedAllocator):
        ids, _ = draw_for(opened.structure.model, source, recipe.calibration)
    settings = stream_settings(recipe, half=half_products(recipe, opened))
    return read_blocks(opened, recipe, ids, progress or (lambda done, total: None), settings)


def read_blocks(
    opened: OpenModel, recipe: Recipe, ids: Samples | None, progress: Progress, settings: StreamSettings
) -> Survey:
    """The same for a model that is open; one streamed dense pass if the allocator reads blocks."""
    structure, allocator = opened.structure, recipe.build_allocator()
    problem = block_weights(structure, biases=recipe.unit() is not None)
    judged = _judged(allocator, recipe)
    held = ids
    if judged is not None and ids is not None:
        ids, held = _apart(ids)
    if isinstance(allocator, CalibratedAllocator) and ids is not None:
        forward, backward = split_needs(allocator.needs)
        with open_stream(structure, settings, ids) as stream:  # checks the ids first
            given = None
            if backward:
                stage("taking gradients for the allocator")
                given = gather_backward(opened.whole(), ids, backward)
            stage("reading dense blocks for the allocator")
            reader = BlockReader(forward, allocator.read, allocator.watch)
            summaries = survey(stream, opened, reader, progress, given)
        problem = problem._replace(summaries=summaries)
        if judged is not None and held is not None:
            stage("preparing to judge allocations on held-out text")
            check_language(structure.model, "this allocator judges by the loss of next tokens: use als, owl or another")
            problem = problem._replace(judge=_judge(opened, recipe, judged.inputs(problem), (ids, held)))
    return Survey(opened, problem, recipe)


def _judged(allocator: Allocator, recipe: Recipe) -> JudgedAllocator | None:
    """The allocator where it judges what this recipe makes: masks of single weights say nothing of whole units."""
    fits = recipe.unit() is None or isinstance(allocator, AutoUnits)
    return allocator if fits and isinstance(allocator, JudgedAllocator) else None


def _judge(
    opened: OpenModel, recipe: Recipe, inputs: Mapping[str, Tensor], windows: tuple[Tensor, Tensor]
) -> MaskedModel | MaskedUnits:
    """A masked model; windows: those that price moves, and those that judge."""
    whole = opened.whole(torch.float32)
    if recipe.unit() is not None:
        return MaskedUnits(whole, inputs, windows[1], partial(unit_targets, opened.structure, recipe))
    shape = recipe.shape()
    if not isinstance(shape, NM):
        return MaskedModel(whole, inputs, windows)
    for name in inputs:
        shape.check(opened.structure.shape(name), 1 - shape.n / shape.m)  # groups of m would span rows
    return MaskedModel(whole, inputs, windows, shape.m)


def _apart(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Windows that are read, and a quarter that judges; those that share a run of tokens with it are not read."""
    judging = max(1, len(ids) // 4)
    held = ids[-judging:]
    runs = {tuple(run) for window in held.tolist() for run in zip(*(window[at:] for at in range(_RUN)), strict=False)}
    alone = [
        row
        for row, window in enumerate(ids[:-judging].tolist())
        if runs.isdisjoint(zip(*(window[at:] for at in range(_RUN)), strict=False))
    ]
    if not alone:
        _log.warning("the windows that judge allocations are read as well: give more samples, or a longer text")
    return ids[alone] if alone else ids[: max(len(ids) - judging, 1)], held


def open_stream(structure: Structure, settings: StreamSettings, ids: Samples) -> Stream:
    """A stream of these samples. Raises CalibrationError when there are none, InputError on what no model reads so."""
    seen = reads_pictures(structure.model)
    if ids.numel() == 0:
        raise CalibrationError(f"calibration ids of shape {list(ids.shape)} are empty: need at least 1 x 2")
    if ids.dim() != (4 if seen else 2) or ids.is_floating_point() != seen:
        wanted = "pixels [samples, channels, high, wide]" if seen else "token ids [samples, length]"
        raise InputError(
            f"{type(structure.model).__name__} is calibrated on {wanted}, got {ids.dtype} of shape {list(ids.shape)}"
        )
    if not seen:
        check_ids(ids, structure.model.config, "calibration")
    return Stream(structure, ids, settings)

"""make_plan(recipe, opened) -> Plan: every choice of a run, made once and handed on."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import torch

from secateur.adapt.structure import Structure
from secateur.allocate.problem import Allocator, CalibratedAllocator
from secateur.allocate.unit_knapsack import UnitKnapsack
from secateur.calibrate.stream import StreamSettings
from secateur.core.errors import ModelError, SecateurError
from secateur.core.protocols import Solver
from secateur.core.shapes import Samples
from secateur.infer.cold import Cold
from secateur.machine.device import half_pays, pick_device
from secateur.machine.ranks import place, shared
from secateur.run.recipe import Recipe
from secateur.run.result import versions
from secateur.run.targets import Targets, choose_targets
from secateur.solve.bias_compensation import BiasCompensation
from secateur.solve.shortgpt import ShortGPT
from secateur.storage.open_model import OpenModel

__all__ = ["Plan", "compute_dtype", "half_products", "make_plan", "stream_settings"]


@dataclass(frozen=True, eq=False)
class Plan:
    """What a recipe comes to for one model: the solver, the allocator, and what every layer is to lose.

    saved: what weights are written as; None where each keeps the checkpoint's own. settings: how activations are
    held. calibrated: whether the allocator reads the dense blocks before the targets are known.
    """

    recipe: Recipe
    solver: Solver
    allocator: Allocator
    targets: Targets
    saved: torch.dtype | None
    settings: StreamSettings

    @property
    def calibrated(self) -> bool:
        """Whether the targets wait for what the allocator reads of the dense blocks."""
        return isinstance(self.allocator, CalibratedAllocator)

    @property
    def reads_text(self) -> bool:
        """Whether anything is calibrated."""
        recipe = self.recipe
        return bool(self.solver.needs) or self.calibrated or recipe.drops_whole() or recipe.looks_at_dense()

    def to_dict(self, opened: OpenModel, ids: Samples | None) -> dict[str, Any]:
        """What must be the same for a resumed run to give the same bits."""
        drawn = "" if ids is None else hashlib.sha256(ids.numpy().tobytes()).hexdigest()
        fields = {key: value for key, value in self.recipe.to_dict().items() if key not in ("out", "model")}
        return {
            "model": opened.checkpoint.digests(),
            "calibration ids": drawn,
            "threads": torch.get_num_threads(),
            "half": self.settings.half,
            "versions": versions(),
            **({"processes": place()[1]} if place()[1] > 1 else {}),
            **fields,
        }


def make_plan(recipe: Recipe, opened: OpenModel, ratios: dict[str, float] | None = None, *, half: bool = False) -> Plan:
    """The plan of a recipe; `ratios` of every layer stand in for what a calibrated allocator reads.

    half: whether products of forward passes are in bfloat16, as `half_products` says.
    Raises a SecateurError where some layer cannot be pruned so.
    """
    solver, allocator = recipe.solver(), recipe.build_allocator()
    if ratios is not None:
        aimed = replace(recipe, exempt=(), allocator="uniform", ratios=ratios)
    elif isinstance(allocator, CalibratedAllocator):
        aimed = replace(recipe, allocator="uniform")
    else:
        aimed = recipe
    if recipe.whole_blocks():
        ShortGPT().keep([0.0] * len(opened.structure.blocks), recipe.target())  # raises where none can go
    targets = choose_targets(opened.structure, aimed, opened.bytes_each())
    _check(targets, solver, opened)
    if opened.structure.kind.inferred:
        _check_inferred(recipe, allocator, opened.structure)
    return Plan(recipe, solver, allocator, targets, _saved_dtype(recipe), stream_settings(recipe, half=half))


def _check_inferred(recipe: Recipe, allocator: Allocator, structure: Structure) -> None:
    """Refuse what needs a row of the table, blocks of several sizes, or blocks at all."""
    family = structure.model.config.model_type
    if structure.blocks[0].whole and (
        recipe.reconstruct is not None
        or recipe.whole_blocks()
        or (isinstance(allocator, CalibratedAllocator) and allocator.watch() is not None)
    ):
        raise ModelError(
            f"the parts of {family} cannot be run one after another, so it counts as one block: leave reconstruct, "
            "shortgpt and allocators that watch blocks out"
        )
    if place()[1] > 1 and any(stage.routed for block in structure.blocks for stage in block.stages):
        raise ModelError(
            f"experts of {family} are pruned in one process, which sees every token: start it without torchrun"
        )
    if recipe.match:
        raise ModelError(
            f"match does not work for {family}: it needs a family of the table, and this one's layers are read off "
            "its products; leave match out"
        )
    calibrated = isinstance(allocator, CalibratedAllocator)
    if isinstance(allocator, UnitKnapsack) or (calibrated and recipe.unit() is not None):
        raise ModelError(
            f"this allocator gives blocks sizes of their own, and the config of {family} has one for all blocks: leave "
            "allocator out"
        )


def _check(targets: Targets, solver: Solver, opened: OpenModel) -> None:
    """Refuse a pattern that some layer cannot meet, and a bias that no config field can hold."""
    structure = opened.structure
    for name, target in targets.layers.items():
        try:
            target.pattern.check(structure.shape(name), target.ratio)
            layer = structure.layer(name)
            if isinstance(solver, BiasCompensation) and layer.bias is None and not structure.bias_fields:
                raise ModelError(
                    f"{type(structure.model).__name__} has no bias here to hold what was removed: use method "
                    "fluctuation, which adds none, or {name: refit, score: fluctuation}"
                )
        except SecateurError as error:
            raise type(error)(f"{name}: {error}") from error


def stream_settings(recipe: Recipe, *, half: bool = False) -> StreamSettings:
    """How activations are held and where they are computed, and when an expert is cold."""
    cold = Cold(recipe.expert_tokens, recipe.cold_experts)
    device = pick_device(recipe.device)
    return StreamSettings(recipe.batch_tokens, int(recipe.memory_gb * 2**30), device=device, cold=cold, half=half)


def compute_dtype(recipe: Recipe) -> torch.dtype:
    """What weights and hidden states are held in: float32 unless the recipe asks for bfloat16."""
    return torch.bfloat16 if recipe.dtype == "bfloat16" else torch.float32


def half_products(recipe: Recipe, opened: OpenModel, known: bool | None = None) -> bool:
    """Whether products of forward passes are in bfloat16, and all else in float32.

    auto measures whether that pays, where weights are stored in 16 bits and nothing is trained. known: what an
    interrupted run had chosen.
    """
    inferred = opened.structure.kind.inferred
    if recipe.dtype == "mixed" and inferred:
        raise ModelError("dtype mixed works for families of the table, and this model is none: take float32")
    if recipe.dtype != "auto" or known is not None:
        return recipe.dtype == "mixed" if known is None else known
    if inferred or recipe.reconstruct is not None or opened.bytes_each() > 2:
        return False
    return bool(shared(half_pays(opened.device) if place()[0] == 0 else None))


def _saved_dtype(recipe: Recipe) -> torch.dtype | None:
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    return kinds.get(recipe.save_dtype)

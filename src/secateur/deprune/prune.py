"""prune_depthwise(network, out, recipe): DEPrune, from a network to a folder."""

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from secateur.convnet.structure import describe_channels
from secateur.core.cut import Cut
from secateur.core.errors import DisagreementError, InputError, RatioError
from secateur.core.files import new_folder
from secateur.deprune.depthwise import (
    Separable,
    depthwise_layers,
    describe_separable,
    importance,
    permute_,
    tap_grams,
    zero_taps_,
)
from secateur.deprune.losses import Curves, divergence, log_shares, loss_curves
from secateur.deprune.plan import Plan, dense_ms, plan_budget, plan_ratio
from secateur.deprune.recipe import DepruneRecipe
from secateur.deprune.table import CostTable, measure_table
from secateur.images.bench import time_in_turns
from secateur.images.pictures import Pictures, pictures_for
from secateur.images.prune import PrunedNetwork, cut_channels_, top1, write_result
from secateur.images.repair import Repair, repair_
from secateur.machine.memory import freed_memory_kept
from secateur.solve.taps import eliminate_taps, of_channels, refit_taps, share_taps, smallest_taps
from secateur.storage.network import Network, open_network, save_network

__all__ = ["Depruned", "deprune_", "prune_depthwise"]

_TILE = 32
_TRIES = 4  # plans whose networks are timed
_SLACK = 1.02  # of the budget, for what two timings differ by
_ENOUGH = 0.97  # of the budget, used: no other plan is tried
_FURTHEST = 1.2  # by how much one timing moves the next plan


class Depruned(NamedTuple):
    """What was removed: channels, and taps that stay of all by layer. ms: the dense and the pruned network's."""

    pruned: PrunedNetwork
    taps: Mapping[str, tuple[int, int]]
    ms: tuple[float, float] | None


def prune_depthwise(
    name: str | Path | Network,
    out: str | Path,
    recipe: DepruneRecipe,
    *,
    images: str | Path | None,
    test: str | Path | None = None,
    table: str | Path | CostTable | None = None,
) -> dict[str, Any]:
    """Prune the depthwise-separable convolutions of a network and write the folder `out`.

    Returns what result.json holds. images: pictures that calibrate. test: pictures with classes, on which top-1 is
    measured before and after. table: times of layers that `secateur bench --layers` wrote; measured here if None.
    Raises a SecateurError with one sentence on anything that cannot be done; `out` then does not exist.
    """
    started = time.perf_counter()
    network = name if isinstance(name, Network) else open_network(name)
    if images is None:
        raise InputError("method deprune needs pictures: give --images DIR or .zip")
    times = CostTable.load(table) if isinstance(table, str | Path) else table
    with freed_memory_kept(), new_folder(Path(out)) as folder:
        drawn = pictures_for(network, images, limit=recipe.samples, seed=recipe.seed)
        tested = None if test is None else pictures_for(network, test)
        accuracy = None if tested is None else top1(network.model, tested)
        done = deprune_(network, recipe, drawn, times)
        pruned = done.pruned
        save_network(network.without(pruned.removal), folder)
        pruned.cut.save(folder / "cut.json")
        result: dict[str, Any] = {
            "out": str(out),
            "network": network.source,
            "method": "deprune",
            "recipe": recipe.to_dict(),
            "images": str(images),
            "taps": done.taps,
            "ms": done.ms,
            **pruned.told(),
        }
        return write_result(folder, result, network.model, (tested, accuracy), started)


def deprune_(network: Network, recipe: DepruneRecipe, pictures: Pictures, table: CostTable | None = None) -> Depruned:
    """Prune a network in memory: channels first, then taps of what is left; each repaired on the pictures.

    Raises ModelError where the network has no depthwise convolution, RatioError where the budget is out of reach.
    """
    parts = describe_separable(network.model, network.example, recipe.pointwise)
    ms = None
    if recipe.ratio is None:
        plan, ms = _timed_plan(network, parts, recipe, pictures, table)
    else:
        plan = plan_ratio(parts, recipe)
    pruned = cut_channels_(parts.structure, _cut(parts, plan), network.example, pictures, recipe.repaired())
    return Depruned(pruned, _prune_taps_(network, recipe, plan, pictures), ms)


def _timed_plan(
    network: Network, parts: Separable, recipe: DepruneRecipe, pictures: Pictures, table: CostTable | None
) -> tuple[Plan, tuple[float, float]]:
    """The plan of the least loss whose network, when it is timed, keeps to the budget, and both networks' times."""
    table = table or measure_table(parts, network.example, engine=recipe.engine, multiple=recipe.multiple)
    trial = _Trial(network, parts, recipe, pictures)
    curves = trial.curves()
    dense = dense_ms(parts, table)
    limit = recipe.limit.limit
    aim = limit * dense if limit <= 1 else limit
    if recipe.taps != "none" and parts.sites:
        recipe = trial.better(recipe, partial(plan_budget, parts, table, curves, limit=aim))
    best: tuple[Plan, tuple[float, float]] | None = None
    two = allowed = 0.0
    for _ in range(_TRIES):
        plan = plan_budget(parts, table, curves, recipe, aim)
        copied = copy.deepcopy(network.model)
        parts.structure.of(copied).shrink_(_cut(parts, plan))
        zero_taps_(copied, plan.taps)
        one, two = time_in_turns([network, replace(network, model=copied)], engine=recipe.engine)
        allowed = limit * one if limit <= 1 else limit
        if two <= allowed * _SLACK and (best is None or two > best[1][1]):
            best = plan, (one, two)
        if best is not None and best[1][1] >= allowed * _ENOUGH:
            break
        aim *= min(max(allowed / two, 1 / _FURTHEST), _FURTHEST)  # one bad timing leads no plan astray
        if aim >= dense:
            break
    if best is not None:
        return best
    raise RatioError(
        f"budget {recipe.budget} was not met: {_TRIES} networks were timed, the last takes {two:.2f} ms, and "
        f"{allowed:.2f} are allowed; a busy machine times badly: try again when it is quiet"
    )


class _Trial:
    """Networks that are pruned by a plan as the last one will be, and judged on pictures that repaired nothing."""

    def __init__(self, network: Network, parts: Separable, recipe: DepruneRecipe, pictures: Pictures) -> None:
        self.network, self.parts, self.recipe = network, parts, recipe
        self.drawn = Pictures(pictures.pixels[: recipe.measured], None)
        self.held = pictures.pixels[-recipe.measured :]
        self.whole = log_shares(network.model, self.held)

    def lost(self, plan: Plan) -> float:
        """The divergence of a plan's network, in nats a picture."""
        small = replace(self.network, model=copy.deepcopy(self.network.model))
        structure = self.parts.structure.of(small.model)
        cut_channels_(structure, _cut(self.parts, plan), self.network.example, self.drawn, self.recipe.repaired())
        _prune_taps_(small, self.recipe, plan, self.drawn)
        return divergence(self.whole, log_shares(small.model, self.held))

    def curves(self) -> Curves:
        """Loss curves at the level of two networks: without a quarter of all channels, and without half of all taps."""
        parts = self.parts
        curves = loss_curves(parts, self.drawn.pixels, refit=self.recipe.refit)

        def level(plan: Plan, expected: float) -> float:
            return self.lost(plan) / expected if expected > 0 else 1.0

        widths = {site.name: site.count - site.count // 4 for site in parts.sites}
        taps = dict.fromkeys([own.name for own in parts.kernels], 0.5)
        channels = sum(curves.channels[site.name].at(1 - widths[site.name] / site.count) for site in parts.sites)
        halved = sum(curves.taps[own.name].at(1 - own.kept(0.5) / own.taps) for own in parts.kernels)
        return curves.levelled(
            level(Plan(widths, {}), channels) if parts.sites else 1.0,
            level(Plan({}, taps), halved) if self.recipe.taps != "none" else 1.0,
        )

    def better(self, recipe: DepruneRecipe, planned: Callable[..., Plan]) -> DepruneRecipe:
        """The recipe, or the one without taps, whichever loses less; losses of both kinds do not just add up."""
        channels = replace(recipe, taps="none")
        try:
            alone = planned(recipe=channels)
        except RatioError:  # out of reach by channels alone
            return recipe
        return recipe if self.lost(planned(recipe=recipe)) <= self.lost(alone) else channels


def _cut(parts: Separable, plan: Plan) -> Cut:
    """The highest scores of every site that loses channels."""
    kept: dict[str, tuple[int, ...]] = {}
    for site in parts.sites:
        if plan.widths.get(site.name, site.count) < site.count:
            best = parts.scores[site.name].argsort(descending=True, stable=True)[: plan.widths[site.name]]
            kept[site.name] = tuple(sorted(best.tolist()))
    return Cut(kept)


def _prune_taps_(network: Network, recipe: DepruneRecipe, plan: Plan, pictures: Pictures) -> dict[str, tuple[int, int]]:
    """Remove taps of the network, whose channels are cut, and repair what follows; taps that stay, by layer."""
    if recipe.taps == "none" or all(share >= 1 for share in plan.taps.values()):
        return {}
    structure = describe_channels(network.model, network.example)
    kernels = [own for own in depthwise_layers(structure) if plan.taps.get(own.name, 1.0) < 1]
    before = network.model.eval()(network.example).detach()
    edits = {}
    for own in kernels:
        matters = importance(structure, own)
        if recipe.taps == "run" and own.site is not None:
            kept = own.kept(plan.taps[own.name])
            weight = own.module.weight.detach().flatten(1).float()
            shared = share_taps((weight * matters[:, None]).square(), kept)
            index = own.site.rows[own.name].flatten()  # the row of every unit
            permute_(structure, own.site, index.argsort()[shared.order[index]])
            matters = matters[shared.order]
        edits[own.name] = _edit(recipe, plan.taps[own.name], matters)
    after = network.model(network.example).detach()
    far = float((before - after).abs().max() / before.abs().max().clamp_min(1e-12))
    if not far <= 1e-3:
        raise DisagreementError(f"channels in another order change the outputs by {far:.2g}: please report it")
    repair = Repair(refit=recipe.refit, damp=recipe.damp)
    repair_(structure, Cut({}), pictures.pixels, repair, edits)
    return {own.name: (int((own.module.weight != 0).sum()), own.module.weight.numel()) for own in kernels}


def _edit(recipe: DepruneRecipe, share: float, matters: Tensor) -> Callable[[Any, Tensor], None]:
    """What becomes of one depthwise convolution when it is reached."""

    def edit(module: Any, x: Tensor) -> None:
        weight = module.weight.detach().flatten(1).float()
        taps = weight.shape[1]
        if recipe.taps == "run":
            grams = tap_grams(module, x)
            runs = eliminate_taps(weight * matters[:, None], grams, max(1, round(share * taps)))
            keep = of_channels(runs, len(weight))
        else:
            tile = _TILE if recipe.taps == "balanced" else None
            keep = smallest_taps(weight.abs(), 1 - share, tile=tile)
            grams = tap_grams(module, x) if recipe.refit else torch.empty(0)
        left = refit_taps(weight, grams, keep) if recipe.refit else weight * keep
        module.weight.copy_(left.view_as(module.weight))

    return edit

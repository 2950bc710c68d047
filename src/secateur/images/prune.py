"""prune_network(name, out, recipe): open, describe, choose, repair, shrink, check and save a network."""

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from secateur.convnet.costs import Costs, costs
from secateur.convnet.structure import ChannelStructure, describe_channels
from secateur.core.cut import Cut
from secateur.core.errors import DisagreementError, InputError, RatioError
from secateur.core.files import new_folder, write_document
from secateur.images.bench import time_in_turns
from secateur.images.pictures import Pictures, pictures_for
from secateur.images.recipe import NetworkRecipe
from secateur.images.repair import Repair, Repaired, repair_
from secateur.images.sparse import sparsify_
from secateur.images.widths import choose_widths, global_widths, knapsack_widths, uniform_widths
from secateur.machine.memory import freed_memory_kept
from secateur.report.card import write_card
from secateur.run.recipe import Recipe
from secateur.score.filters import ChannelScore
from secateur.storage.network import Network, Removal, open_network, save_network
from secateur.tasks.classification import check_guessed

__all__ = [
    "PrunedNetwork",
    "cut_channels_",
    "gradients",
    "prune_channels_",
    "prune_network",
    "sparsify_network",
    "top1",
    "write_result",
]

_TOLERANCE = 1e-4  # of the largest output, between the masked and the shrunk network
_BATCH = 32
_SHARES = (0.75, 0.5, 0.3, 0.15)  # of the MACs, at which a budget in ms is timed
_Widths = Callable[[Mapping[str, Tensor], float], Mapping[str, float]]
_WIDTHS: Mapping[str, Callable[[ChannelStructure, str], _Widths]] = {
    "uniform": lambda structure, unit: uniform_widths,
    "global": lambda structure, unit: global_widths,
    "knapsack": knapsack_widths,
}


class PrunedNetwork(NamedTuple):
    """What was removed: the cut by site, what a network needs to be cut so again, and costs before and after.

    skipped: layers that were not refitted, and why; kept: what keeps channels that no site has.
    """

    cut: Cut
    removal: Removal
    before: Costs
    after: Costs
    skipped: dict[str, str]
    kept: dict[str, int]

    def told(self) -> dict[str, Any]:
        """What result.json holds of it: costs before and after, channels by site, and what was left."""
        return {
            "macs": [self.before.macs, self.after.macs],
            "params": [self.before.params, self.after.params],
            "bytes": [self.before.bytes, self.after.bytes],
            "sites": {site: len(kept) for site, kept in self.cut.kept.items()},
            "not_refitted": self.skipped,
            "not_removable": self.kept,
        }


def prune_channels_(
    model: nn.Module, example: Tensor, recipe: NetworkRecipe, pictures: Pictures | None = None
) -> PrunedNetwork:
    """Remove channels from a network in memory, so that it costs no more than the recipe's budget.

    example: `[batch, ...]`, whatever the network is called with. pictures: what calibrates it, already
    preprocessed. The shrunk network must compute what the masked one does; raises DisagreementError
    where it does not, ModelError where no channel can be removed, InputError on a budget out of reach.
    """
    structure = describe_channels(model, example)
    scores = _scores(structure, recipe, pictures)
    widths = _WIDTHS[recipe.allocator](structure, recipe.limit.unit)
    cut = choose_widths(structure, scores, recipe.limit, widths, multiple=recipe.multiple, least=recipe.least)
    repair = recipe.repaired(pictures=pictures is not None)
    return cut_channels_(structure, cut, example, pictures, repair)


def cut_channels_(
    structure: ChannelStructure, cut: Cut, example: Tensor, pictures: Pictures | None, repair: Repair | None
) -> PrunedNetwork:
    """Remove what a cut does not keep from the structure's network, repaired where there are pictures.

    Raises DisagreementError where the shrunk network does not compute what the masked one does.
    """
    before = costs(structure)
    done = Repaired(cut, {})
    if repair is not None and pictures is not None:
        done = repair_(structure, cut, pictures.pixels, repair)
    after = _shrink_(structure, done.cut, example)
    axes = {name: layer.axis for name, layer in structure.layers.items() if layer.axis is not None}
    removal = Removal(structure.slices(done.cut), axes, after)
    return PrunedNetwork(
        done.cut, removal, before, _measured(structure, done.cut), done.skipped, dict(structure.reasons)
    )


def prune_network(
    name: str | Path | Network,
    out: str | Path,
    recipe: NetworkRecipe | None = None,
    *,
    images: str | Path | None = None,
    test: str | Path | None = None,
) -> dict[str, Any]:
    """Prune a network by its name and write the folder `out`; return what result.json holds.

    images: a folder or .zip of pictures that calibrate. test: pictures with classes, on which the
    top-1 accuracy is measured before and after. Raises a SecateurError with one sentence on anything
    that cannot be done; `out` then does not exist.
    """
    started = time.perf_counter()
    recipe = recipe or NetworkRecipe()
    network = name if isinstance(name, Network) else open_network(name)
    with freed_memory_kept(), new_folder(Path(out)) as folder:
        drawn = None if images is None else pictures_for(network, images, limit=recipe.samples, seed=recipe.seed)
        tested = None if test is None else pictures_for(network, test)
        recipe.repaired(pictures=drawn is not None)
        asked, times = recipe, dict[float, float]()
        if recipe.limit.unit == "ms":
            recipe, times = _timed(network, recipe)
        accuracy = None if tested is None else top1(network.model, tested)
        pruned = prune_channels_(network.model, network.example, recipe, drawn)
        save_network(network.without(pruned.removal), folder)
        pruned.cut.save(folder / "cut.json")
        result: dict[str, Any] = {
            "out": str(out),
            "network": network.source,
            "recipe": asked.to_dict(),
            "images": None if images is None else str(images),
            **pruned.told(),
        }
        if times:
            result |= {"timed_budget": recipe.budget, "ms_by_share": times}
        return write_result(folder, result, network.model, (tested, accuracy), started)


def write_result(
    folder: Path, result: dict[str, Any], model: nn.Module, test: tuple[Pictures | None, float | None], started: float
) -> dict[str, Any]:
    """Write result.json, with top-1 and the seconds since the start, and return it.

    test: the pictures that are tested, if any, and top-1 before.
    """
    tested, accuracy = test
    if tested is not None:
        result |= {"top1": [accuracy, top1(model, tested)], "tested": len(tested.pixels)}
    result["seconds"] = time.perf_counter() - started
    write_document(folder / "result.json", result)
    write_card(folder, Path(result["out"]).name)
    return result


def _timed(network: Network, recipe: NetworkRecipe) -> tuple[NetworkRecipe, dict[float, float]]:
    """The recipe with the share of MACs that its budget in ms comes to here, and the milliseconds it follows from.

    Copies at a few shares are cut by filter norms and timed in turns, one picture in torch; between them lines are
    drawn. Raises RatioError where even the smallest copy takes longer.
    """
    copies, shares = [network], [1.0]
    for share in _SHARES:
        small = copy.deepcopy(network.model)
        try:
            done = prune_channels_(
                small, network.example, replace(recipe, method="l1", budget=f"{share}-macs", repair="none")
            )
        except RatioError:  # smaller than the sites allow
            break
        shares.append(done.after.macs / done.before.macs)
        copies.append(replace(network, model=small))
    times = dict(zip(shares, time_in_turns(copies), strict=True))
    dense = times[1.0]
    limit = recipe.limit.limit * dense if recipe.limit.limit <= 1 else recipe.limit.limit
    if min(times.values()) > limit:
        raise RatioError(
            f"budget {recipe.budget} is out of reach: {limit:.2f} ms of {dense:.2f}, and the smallest network tried, "
            f"with {min(times):.2f} of the MACs, takes {min(times.values()):.2f}"
        )
    fits = [share for share, own in times.items() if own <= limit]
    share = max(fits)
    over = [other for other in times if other > share]
    if over:  # on the line from the largest that fits to the next
        above = min(over)
        share += (above - share) * (limit - times[share]) / (times[above] - times[share])
    return replace(recipe, budget=f"{share:.4f}-macs"), times


def sparsify_network(
    network: Network,
    out: str | Path,
    recipe: Recipe,
    *,
    images: str | Path | None = None,
    test: str | Path | None = None,
) -> dict[str, Any]:
    """Put zeros into a network's weights and write the folder `out`; shapes stay. Returns what result.json holds.

    recipe: of a method, a ratio and a pattern of zeros, as language models take them; its calibration says how
    many pictures are drawn. Raises a SecateurError with one sentence on anything that cannot be done.
    """
    started = time.perf_counter()
    with freed_memory_kept(), new_folder(Path(out)) as folder:
        drawn = recipe.calibration
        if images is None and recipe.solver().needs:
            raise InputError(f"method {recipe.method!r} needs pictures: give --images DIR or .zip")
        pixels = network.example
        if images is not None:
            pixels = pictures_for(network, images, limit=drawn.samples, seed=drawn.seed).pixels
        tested = None if test is None else pictures_for(network, test)
        accuracy = None if tested is None else top1(network.model, tested)
        done = sparsify_(network.model, recipe, pixels)
        save_network(network, folder)
        result: dict[str, Any] = {
            "out": str(out),
            "network": network.source,
            "recipe": recipe.to_dict(),
            "sparsity": done.sparsity,
            "layers": done.layers,
            "skipped": done.skipped,
        }
        return write_result(folder, result, network.model, (tested, accuracy), started)


@torch.no_grad()
def top1(model: nn.Module, pictures: Pictures) -> float:
    """The share of pictures whose class has the highest output. Raises InputError where classes are unknown."""
    if pictures.classes is None:
        raise InputError("accuracy needs classes: put pictures into a folder for each class")
    model.eval()
    right = 0
    for pixels, classes in zip(pictures.pixels.split(_BATCH), pictures.classes.split(_BATCH), strict=True):
        out = model(pixels)
        check_guessed(pictures, out.shape[1])
        if int(classes.max()) >= out.shape[1]:
            raise InputError(f"class {int(classes.max())} of the pictures is none of the network's {out.shape[1]}")
        right += int((out.argmax(dim=1) == classes).sum())
    return right / len(pictures.pixels)


def gradients(structure: ChannelStructure, pictures: Pictures) -> dict[str, Tensor]:
    """The mean gradient of the loss at every matrix, `[out, in]`; without classes, on those the network predicts."""
    model = structure.model.eval()
    held = {name: value.requires_grad for name, value in model.named_parameters()}
    model.requires_grad_(True)
    model.zero_grad(set_to_none=True)
    for number, pixels in enumerate(pictures.pixels.split(_BATCH)):
        out = model(pixels)
        known = pictures.classes
        classes = out.argmax(dim=1)
        if known is not None and out.dim() == 2:  # maps of classes have none for each pixel
            classes = known[number * _BATCH :][: len(pixels)]
        torch.autograd.backward(cross_entropy(out, classes, reduction="sum") / len(pictures.pixels))
    found: dict[str, Tensor] = {}
    for name, layer in structure.layers.items():
        weight: Any = layer.module._parameters.get(layer.parameter)
        if layer.is_matrix and weight is not None and weight.grad is not None:
            found[name] = layer.seen(weight.grad)
    model.zero_grad(set_to_none=True)
    for name, value in model.named_parameters():
        value.requires_grad_(held[name])
    return found


def _scores(structure: ChannelStructure, recipe: NetworkRecipe, pictures: Pictures | None) -> dict[str, Tensor]:
    """A score for every unit of every site that may be cut."""
    score: ChannelScore = recipe.score
    unknown = [name for name in recipe.exempt if name not in {site.name for site in structure.sites}]
    if unknown:
        raise InputError(f"exempt names site {unknown[0]!r}, which the network does not have")
    if score.needs_gradient and pictures is None:
        raise InputError(f"method {recipe.method} needs pictures: give --images DIR or .zip")
    sites = [
        site
        for site in structure.sites
        if site.name not in recipe.exempt and (recipe.sites == "all" or site.name not in structure.residual)
    ]
    found = gradients(structure, pictures) if score.needs_gradient and pictures is not None else {}
    with torch.no_grad():
        return {site.name: score(site, structure.layers, found) for site in sites}


@torch.no_grad()
def _shrink_(structure: ChannelStructure, cut: Cut, example: Tensor) -> dict[str, dict[str, Any]]:
    """Cut the network, and make sure that it computes what it did with the removed columns at zero."""
    model = structure.model.eval()
    attributes = structure.attributes(cut)
    structure.mask_(cut)
    expected = model(example)
    structure.shrink_(cut)
    try:
        got = model(example)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise DisagreementError(
            f"the shrunk network does not run: {error}; leave sites out with --exempt, and please report it"
        ) from error
    far = float((expected - got).abs().max()) / max(float(expected.abs().max()), 1e-12)
    if not far <= _TOLERANCE:
        raise DisagreementError(
            f"the shrunk network differs from the masked one by {far:.2g} of the largest output, "
            f"allowed is {_TOLERANCE:g}: please report it, with the network's name"
        )
    return attributes


def _measured(structure: ChannelStructure, cut: Cut) -> Costs:
    """The costs of the shrunk network, read off its matrices."""
    macs = sum(
        layer.weight.numel() * structure.positions.get(name, 0)
        for name, layer in structure.layers.items()
        if layer.is_matrix
    )
    every = list(structure.model.parameters())
    return Costs(macs, sum(v.numel() for v in every), sum(v.numel() * v.element_size() for v in every))

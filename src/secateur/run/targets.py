"""What a recipe asks of every layer: single weights of all, or whole units at the sites."""

from collections.abc import Mapping, Sequence
from math import lcm
from typing import NamedTuple

from secateur.adapt.site import Site
from secateur.adapt.structure import Structure
from secateur.allocate.problem import Problem
from secateur.allocate.units import count_equal_units, count_units
from secateur.core.allocation import Allocation
from secateur.core.budget import Budget
from secateur.core.errors import InputError, RatioError
from secateur.core.pattern import NM
from secateur.core.protocols import Pattern
from secateur.run.recipe import Recipe
from secateur.run.result import LayerReport

__all__ = ["Target", "Targets", "allocate", "block_weights", "choose_targets", "ratio_for", "unit_targets"]


class Target(NamedTuple):
    """The shape of zeros and the ratio one layer is to get."""

    pattern: Pattern
    ratio: float


class Targets(NamedTuple):
    """Targets by layer name, the weights they share, and every site when the model is to shrink."""

    layers: Mapping[str, Target]
    weights: int
    sites: list[Site]

    def removed(self, reports: Sequence[LayerReport]) -> int:
        """Weights that went: those masked, or those of the units cut out."""
        if not self.sites:
            return sum(round(report.sparsity * report.weights) for report in reports)
        sites = {site.layer: site for site in self.sites}
        shares = ((report.sparsity, sites[report.name]) for report in reports)
        return sum(round(share * site.count) * site.weights for share, site in shares)


def choose_targets(structure: Structure, recipe: Recipe, bytes_each: int) -> Targets:
    """Targets for every layer a recipe prunes; bytes_each is what a stored parameter takes.

    Raises InputError on names that do not exist and RatioError on what cannot be met.
    """
    unit = recipe.unit()
    whole = recipe.whole_blocks() or recipe.whole_experts()
    problem = block_weights(structure, biases=unit is not None or whole)
    weights = sum(problem.sizes.values())
    if whole:
        return Targets({}, weights, [])
    ratios = allocate(recipe, problem, ratio_for(structure, recipe, bytes_each))
    if unit is None:
        return Targets(_single(recipe.shape(), ratios, problem.layers), weights, [])
    every = structure.sites(unit)
    layers = unit_targets(structure, recipe, ratios)
    if not layers and any(ratios.values()):
        few = min(every, key=lambda site: site.count)
        raise RatioError(
            f"ratio {max(_by_block(problem, ratios).values()):.3g} removes no unit, as whole ones go, such as of the "
            f"{few.count} of {few.name}: ask for more"
        )
    return Targets(layers, weights, every)


def unit_targets(structure: Structure, recipe: Recipe, ratios: Mapping[str, float]) -> dict[str, Target]:
    """Targets of the layers that lose columns where whole units go; ratios by layer, and what has none stays whole.

    Raises InputError where blocks must keep one size and would not, RatioError on what cannot be met.
    """
    unit = recipe.unit()
    assert unit is not None
    problem = block_weights(structure, biases=True)
    sites = structure.sites_by_block(unit)
    shares = _by_block(problem, {name: ratios.get(name, 0.0) for name in problem.layers})
    if structure.kind.inferred:  # its config has one size for all blocks
        if len(set(shares.values())) > 1:
            raise InputError(
                f"the blocks of {type(structure.model).__name__} must keep one size, as its config has one for all: "
                "leave allocator, ratios and exempt out"
            )
        stacked = any(layer.index is not None for layer in structure.layers)
        # Fast products of experts want rows of whole 16 bytes.
        step = lcm(recipe.round_to, 8) if stacked else recipe.round_to
        kept = count_equal_units(sites, next(iter(shares.values())), problem.sizes, step)
    else:
        kept = count_units(sites, shares, problem.sizes, recipe.round_to)
    return {
        site.layer: Target(site.pattern, 1 - kept[site.name] / site.count)
        for group in sites.values()
        for site in group
        if kept[site.name] < site.count
    }


def block_weights(structure: Structure, *, biases: bool) -> Problem:
    """Weights of every layer, by block; biases count where whole units or blocks go."""
    return Problem(
        {
            block.name: {layer.name: layer.size if biases else layer.weight.numel() for layer in block.layers}
            for block in structure.blocks
        }
    )


def allocate(recipe: Recipe, problem: Problem, ratio: float) -> dict[str, float]:
    """The ratio of every layer: what is exempt loses nothing, and the others make up for it.

    A name in the recipe's own allocation, block or layer, stands above the allocator's.
    """
    names = list(problem.blocks)
    for index in recipe.exempt:
        if not -len(names) <= index < len(names):
            raise InputError(f"exempt names block {index}, but the model has {len(names)}")
    exempt = {names[index] for index in recipe.exempt}
    free = problem._replace(
        blocks={name: part for name, part in problem.blocks.items() if name not in exempt},
        summaries={name: summary for name, summary in problem.summaries.items() if name not in exempt},
    )
    # The others make up.
    raised = ratio * sum(problem.sizes.values()) / sum(free.sizes.values()) if free.blocks else 2.0
    if raised > 1 or (raised == 1 and exempt):
        raise RatioError(f"ratio {ratio:g} would empty the {len(free.blocks)} blocks that are not exempt: ask for less")
    given = dict.fromkeys(exempt, 0.0) | dict(recipe.build_allocator().allocate(free, raised).ratios)
    known = set(problem.blocks) | set(problem.layers)
    for name in recipe.ratios:
        if name not in known:
            raise InputError(
                f"ratios name {name!r}, which is no block or layer of the model, such as {names[0]!r} or "
                f"{next(iter(problem.layers))!r}"
            )
    own = recipe.ratios
    _check_spared(own, {name: problem.blocks[name] for name in exempt})
    return {
        layer: own.get(layer, own.get(block, given.get(layer, given.get(block, 0.0))))
        for block, layers in problem.blocks.items()
        for layer in layers
    }


def _check_spared(own: Mapping[str, float], exempt: Mapping[str, Mapping[str, int]]) -> None:
    for name in [*exempt, *(layer for layers in exempt.values() for layer in layers)]:
        if own.get(name, 0.0) > 0:
            raise InputError(
                f"ratios give {name!r} the ratio {own[name]:g}, but exempt spares that block: leave one out"
            )


def _by_block(problem: Problem, ratios: Mapping[str, float]) -> dict[str, float]:
    """Weighted means of layers' ratios; of equal ones, that ratio to the last bit, as equal blocks load anywhere."""
    return {
        block: ratios[next(iter(layers))]
        # A mean of equal floats may differ in its last bit, and then blocks would differ by a unit.
        if len({ratios[layer] for layer in layers}) == 1
        else Allocation({layer: ratios[layer] for layer in layers}).mean(layers)
        for block, layers in problem.blocks.items()
    }


def _single(pattern: Pattern, ratios: Mapping[str, float], sizes: Mapping[str, int]) -> dict[str, Target]:
    """Targets where single weights go: whole weights, or whole n of n:m, that together meet the mean."""
    if len(set(ratios.values())) == 1:
        return {name: Target(pattern, ratio) for name, ratio in ratios.items()}
    if isinstance(pattern, NM):  # another n in every layer
        gone = Allocation(ratios).group_counts(sizes, pattern.m)
        return {name: Target(NM(n=pattern.m - count, m=pattern.m), count / pattern.m) for name, count in gone.items()}
    counts = Allocation(ratios).counts(sizes)
    return {name: Target(pattern, counts[name] / sizes[name]) for name in ratios}


def ratio_for(structure: Structure, recipe: Recipe, bytes_each: int) -> float:
    """The share of block weights to remove, from the ratio or from the budget.

    MACs are those of one token through every matrix, head included; milliseconds are what run/timing.py
    found. Raises RatioError when the budget is below what lies outside the blocks, or above the dense model.
    """
    if recipe.budget is None:
        return recipe.target()
    budget: Budget = recipe.limit()
    if budget.unit == "ms" and recipe.timed_ratio is not None:
        return recipe.timed_ratio
    inside = sum(block_weights(structure, biases=True).sizes.values())
    config = structure.model.config.get_text_config(decoder=True)
    head = config.vocab_size * config.hidden_size  # the head's product counts, embeddings are looked up
    outside = {
        "params": structure.model.num_parameters() - inside,
        "bytes": (structure.model.num_parameters() - inside) * bytes_each,
        "macs": head,
    }
    if budget.unit not in outside:
        raise InputError(f"a budget in {budget.unit} cannot be planned for this model: use {', '.join(outside)}")
    each = bytes_each if budget.unit == "bytes" else 1
    dense, least = outside[budget.unit] + inside * each, outside[budget.unit]
    if not least < budget.limit <= dense:
        raise RatioError(
            f"budget of {budget.limit:,.0f} {budget.unit} is not between what lies outside the blocks ({least:,}) "
            f"and the dense model ({dense:,})"
        )
    return (dense - budget.limit) / (inside * each)

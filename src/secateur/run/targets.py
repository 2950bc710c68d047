"""What a recipe asks of every layer: single weights of all, or whole units at the sites."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from secateur.adapt.adapter import Adapter, Block
from secateur.adapt.site import Site
from secateur.adapt.sites import block_sites, head_dim
from secateur.allocate.units import count_units
from secateur.core.budget import Budget
from secateur.core.errors import InputError, RatioError
from secateur.core.roles import Pattern
from secateur.run.recipe import Recipe
from secateur.run.result import LayerReport

__all__ = ["Target", "Targets", "choose_targets", "ratio_for"]


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
        found = ((report.sparsity, sites[report.name]) for report in reports)
        return sum(round(share * site.count) * site.weights for share, site in found)


def choose_targets(adapter: Adapter, recipe: Recipe, bytes_each: int) -> Targets:
    """Targets for every layer a recipe prunes; bytes_each is what a stored parameter takes.

    Raises InputError on names that do not exist and RatioError on what cannot be met.
    """
    unit = recipe.unit()
    if recipe.whole_blocks():
        return Targets({}, sum(_weights(block) for block in adapter.blocks()), [])
    if unit is None:
        return Targets(_single(adapter, recipe), sum(layer.weight.numel() for layer in adapter.layers()), [])
    width = head_dim(adapter.model.config)
    blocks = {block.name: block_sites(block, width, unit=unit) for block in adapter.blocks()}
    weights = {block.name: _weights(block) for block in adapter.blocks()}
    ratios = _block_ratios(recipe, weights, ratio_for(adapter, recipe, bytes_each))
    kept = count_units(blocks, ratios, weights, recipe.round_to)
    sites = [site for group in blocks.values() for site in group]
    layers = {
        site.layer: Target(site.pattern, 1 - kept[site.name] / site.count)
        for site in sites
        if kept[site.name] < site.count
    }
    return Targets(layers, sum(weights.values()), sites)


def _single(adapter: Adapter, recipe: Recipe) -> dict[str, Target]:
    names = [layer.name for layer in adapter.layers()]
    for name in recipe.allocation:
        if name not in names:
            raise InputError(f"allocation names {name!r}, which is no layer of the model, such as {names[0]!r}")
    return {name: Target(recipe.shape(), recipe.allocation.get(name, recipe.target())) for name in names}


def _weights(block: Block) -> int:
    """Parameters of a block's layers, biases included."""
    return sum(layer.size for stage in block.stages() for layer in stage)


def _block_ratios(recipe: Recipe, weights: Mapping[str, int], ratio: float) -> dict[str, float]:
    """Ratios by block: what is exempt loses nothing, and the others make up for it."""
    names = list(weights)
    for name in recipe.allocation:
        if name not in weights:
            raise InputError(f"allocation names {name!r}, which is no block of the model, such as {names[0]!r}")
    for index in recipe.exempt:
        if not -len(names) <= index < len(names):
            raise InputError(f"exempt names block {index}, but the model has {len(names)}")
    exempt = {names[index] for index in recipe.exempt}
    free = {name: size for name, size in weights.items() if name not in exempt}
    raised = ratio * sum(weights.values()) / sum(free.values()) if free else 2.0
    if raised >= 1:
        raise RatioError(f"ratio {ratio:g} would empty the {len(free)} blocks that are not exempt: ask for less")
    allocated = recipe.allocator().allocate(free, raised).ratios
    return {name: recipe.allocation.get(name, allocated.get(name, 0.0)) for name in names}


def ratio_for(adapter: Adapter, recipe: Recipe, bytes_each: int) -> float:
    """The share of block weights to remove, from the ratio or from the budget.

    MACs are those of one token through every matrix, head included. Raises RatioError
    when the budget is below what lies outside the blocks, or above the dense model.
    """
    if recipe.budget is None:
        return recipe.target()
    budget: Budget = recipe.limit()
    inside = sum(_weights(block) for block in adapter.blocks())
    config = adapter.model.config
    head = config.vocab_size * config.hidden_size
    outside = {
        "params": adapter.model.num_parameters() - inside,
        "bytes": (adapter.model.num_parameters() - inside) * bytes_each,
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

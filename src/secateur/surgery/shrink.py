"""Apply a Cut: slice rows and columns of every matrix of a site."""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from secateur.adapt.block import Sizes
from secateur.adapt.layer import Layer
from secateur.adapt.site import Site, Slice, site_slices
from secateur.adapt.structure import Structure
from secateur.core.cut import Cut
from secateur.core.errors import InputError

__all__ = ["Slices", "cut_sizes", "cut_slices", "shrink_", "slice_layers_", "sliced"]

Slices = Mapping[str, Slice]


def cut_slices(sites: Sequence[Site], cut: Cut) -> dict[str, Slice]:
    """For every layer a cut touches: the rows and columns that go.

    Raises InputError on a site the model does not have, and where two sites cut one dimension of a layer.
    """
    known = {site.name: site for site in sites}
    slices: dict[str, Slice] = {}
    for name, kept in cut.kept.items():
        if name not in known:
            raise InputError(f"cut names site {name!r}, which the model does not have, such as {sites[0].name!r}")
        for layer, part in site_slices(known[name], kept).items():
            slices[layer] = slices.get(layer, Slice()).joined(part, layer)
    return slices


def sliced(tensor: Tensor, slices: Slices, parameter: str) -> Tensor:
    """What stays of a parameter `[out, in]` or `[out]`; biases lose rows and never columns."""
    layer = parameter.rpartition(".")[0]
    return slices[layer].cut(tensor) if layer in slices else tensor


def cut_sizes(sites: Sequence[Site], cut: Cut, sizes: Sequence[Sizes]) -> list[Sizes]:
    """Every block's sizes after the cut; sites are named after their block."""
    after = list(sizes)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(_block(site) for site in sites))}
    for site in sites:
        if site.name in cut.kept:
            number, kept = numbers[_block(site)], len(cut.kept[site.name])
            heads, kv_heads, ffn = after[number]
            if site.kind == "ffn":
                after[number] = Sizes(heads, kv_heads, kept)
            else:
                # Heads of their own K and V take them along; shared K and V stay.
                shared = kept * kv_heads // site.count if site.kind == "kv_groups" or heads == kv_heads else kv_heads
                after[number] = Sizes(heads * kept // site.count, shared, ffn)
    return after


def _block(site: Site) -> str:
    return site.name.rpartition(".")[0]


def shrink_(structure: Structure, sites: Sequence[Site], cut: Cut) -> None:
    """Shrink a model in memory; its config keeps the old sizes until it is saved."""
    slice_layers_(structure.layers, cut_slices(sites, cut))
    structure.settle_()


def slice_layers_(layers: Iterable[Layer], slices: Slices) -> None:
    """Put what stays of weights and biases into the layers that are cut."""
    for layer in layers:
        if layer.name in slices:
            layer.cut_(slices[layer.name])

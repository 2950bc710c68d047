"""Depthwise convolutions of a network: where they are, what their taps read, and channels in another order."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from secateur.adapt.site import Site
from secateur.convnet.structure import ChannelStructure, describe_channels
from secateur.core.errors import ModelError
from secateur.score.filters import L2, GroupNorm

__all__ = [
    "Depthwise",
    "Separable",
    "depthwise_layers",
    "describe_separable",
    "gain_of",
    "importance",
    "permute_",
    "tap_grams",
    "zero_taps_",
]

_POSITIONS = 20_000  # at which taps are read, of all pictures
_PICTURES = 8  # at once


class Depthwise(NamedTuple):
    """A depthwise convolution, its taps, and the site whose channels it has, where they can be cut and moved."""

    name: str
    module: nn.Conv2d
    site: Site | None

    @property
    def taps(self) -> int:
        """Weights of one channel's kernel."""
        return self.module.weight[0].numel()

    def kept(self, share: float) -> int:
        """How many taps a share of them is: whole ones, one at least."""
        return max(1, round(share * self.taps))


class Separable(NamedTuple):
    """A network's depthwise-separable convolutions: kernels, and the sites that lose channels with their scores."""

    structure: ChannelStructure
    sites: tuple[Site, ...]
    kernels: tuple[Depthwise, ...]
    scores: Mapping[str, Tensor]


@torch.no_grad()
def describe_separable(model: nn.Module, example: Tensor, pointwise: str) -> Separable:
    """Find them. pointwise: which channels go, as in a recipe.

    Channels of a block's middle are scored by all their weights, those that blocks project to by the norm of their
    filters (the published rule). Raises ModelError where the network has no depthwise convolution.
    """
    structure = describe_channels(model, example)
    kernels = tuple(depthwise_layers(structure))
    if not kernels:
        raise ModelError("the network has no depthwise convolution: prune it by another method, such as refit")
    inside = {own.site.name: own.site for own in kernels if own.site is not None}
    read = {name for site in inside.values() for name in site.columns}
    sites: Mapping[str, tuple[Site, ...]] = {
        "expanded": tuple(site for site in inside.values() if site.name not in structure.residual),
        "projected": tuple(site for site in structure.sites if site.name not in inside and site.rows.keys() & read),
        "none": (),
    }
    score = L2() if pointwise == "projected" else GroupNorm()
    scores = {site.name: score(site, structure.layers, {}) for site in sites[pointwise]}
    return Separable(structure, sites[pointwise], kernels, scores)


def depthwise_layers(structure: ChannelStructure) -> list[Depthwise]:
    """Convolutions in which every channel has a kernel of its own, of more than one tap, as they run."""
    found: list[Depthwise] = []
    for name, layer in structure.layers.items():
        module = layer.module
        if layer.axis is None and isinstance(module, nn.Conv2d) and module.weight.shape[1] == 1 < module.groups:
            if module.out_channels == module.groups and module.weight[0].numel() > 1:
                found.append(Depthwise(name, module, _site(structure, name, module.out_channels)))
    return found


def _site(structure: ChannelStructure, name: str, channels: int) -> Site | None:
    """The site that has all channels of a layer, one for each unit."""
    for site in structure.sites:
        rows = site.rows.get(name)
        if rows is not None and rows.shape == (channels, 1) and site.groups == 1:
            return site
    return None


def importance(structure: ChannelStructure, own: Depthwise) -> Float[Tensor, " channels"]:
    """How much an error of each channel matters: the gain of the batch norm after it, times the norm of what reads it.

    Ones where no site says what follows.
    """
    if own.site is None:
        return torch.ones(own.module.out_channels)
    total = gain_of(structure, own.site, own.name)
    order = own.site.rows[own.name].flatten()
    read = sum(
        structure.layers[name].weight.float().square().sum(dim=0)[index].sum(dim=1)
        for name, index in own.site.columns.items()
    )
    total[order] *= torch.as_tensor(read).sqrt()
    return total


@torch.no_grad()
def gain_of(structure: ChannelStructure, site: Site, name: str) -> Float[Tensor, " out"]:
    """By how much the batch norm after a layer multiplies what each of its rows makes; 1 where none follows.

    site: whose rows the layer has.
    """
    gain = torch.ones(len(structure.layers[name].weight))
    rows = list(site.rows)
    for after in rows[rows.index(name) + 1 :]:
        module: Any = structure.layers[after].module
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
            own = (module.running_var + module.eps).rsqrt() * (1 if module.weight is None else module.weight)
            gain[site.rows[name].flatten()] = own.abs()[site.rows[after].flatten()].float()
            break
    return gain


@torch.no_grad()
def tap_grams(module: nn.Conv2d, x: Tensor) -> Float[Tensor, "channels taps taps"]:
    """The mean of x x^T of what every channel's taps read, over evenly spread positions of the output.

    x: what the convolution is called with, `[batch, channels, h, w]`. A kernel with a single one at a tap reads that
    tap alone, so this holds for convolutions that pad by themselves.
    """
    weight, bias = module.weight.detach().clone(), module.bias
    channels, taps = len(weight), weight[0].numel()
    total = torch.zeros(channels, taps, taps)
    count = 0
    try:
        module.bias = None
        for part in x.split(_PICTURES):
            seen: list[Tensor] = []
            for tap in range(taps):
                module.weight.copy_(torch.zeros_like(weight))
                module.weight.view(channels, taps)[:, tap] = 1
                out = module.forward(part).transpose(0, 1).flatten(1)
                step = max(1, out.shape[1] * len(x) // max(len(part) * _POSITIONS, 1))
                seen.append(out[:, ::step].float())
            stacked = torch.stack(seen, dim=1)
            total += stacked @ stacked.transpose(1, 2)
            count += stacked.shape[2]
    finally:
        module.weight.copy_(weight)
        module.bias = bias
    return total / count


@torch.no_grad()
def zero_taps_(model: nn.Module, shares: Mapping[str, float]) -> None:
    """Zeros at all but a share of each layer's taps, wherever they are: for timing."""
    for name, share in shares.items():
        weight = model.get_submodule(name).get_parameter("weight")
        flat = weight.flatten(1)
        flat[:, max(1, round(share * flat.shape[1])) :] = 0
        weight.copy_(flat.view_as(weight))


@torch.no_grad()
def permute_(structure: ChannelStructure, site: Site, order: Sequence[int] | Int[Tensor, " count"]) -> None:
    """Put a site's units in another order in every layer: unit `order[u]` comes to place u. Outputs stay the same."""
    moved = torch.as_tensor(order)
    for name, index in site.rows.items():
        structure.layers[name].move_rows_(index.flatten(), index[moved].flatten())
    for name, index in site.columns.items():
        layer = structure.layers[name]
        weight = layer.weight.clone()
        weight[:, index.flatten()] = layer.weight[:, index[moved].flatten()]
        layer.set_weight(weight)

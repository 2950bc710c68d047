"""Scores of channels: one number for every unit of a site; the lowest are removed first."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from secateur.adapt.layer import Layer
from secateur.adapt.site import Site
from secateur.core.errors import InputError
from secateur.core.seed import generator

__all__ = [
    "FPGM",
    "L2",
    "LAMP",
    "BNScale",
    "ChannelScore",
    "FilterNorm",
    "GroupNorm",
    "RandomChannels",
    "TaylorChannels",
]

Scores = Float[Tensor, " count"]
Layers = Mapping[str, Layer]
Gradients = Mapping[str, Tensor]


@runtime_checkable
class ChannelScore(Protocol):
    """Scores a site's units, from its layers and, where `needs_gradient`, the loss's gradient of every weight."""

    needs_gradient: ClassVar[bool]

    def __call__(self, site: Site, layers: Layers, gradients: Gradients) -> Scores:
        """One number for each unit."""
        ...


def _filters(site: Site, layers: Layers) -> Iterator[Tensor]:
    """The rows of every matrix that makes the units, `[count, size * in]`."""
    for name, index in site.rows.items():
        if layers[name].is_matrix:
            yield layers[name].weight.float()[index].flatten(1)


@dataclass(frozen=True, kw_only=True)
class FilterNorm:
    """The size of the filters that make a channel, averaged over the layers that do.

    Formula: s_c = mean over layers of ||W_c||_p [Li et al. 2017]
    """

    p: float = 1.0

    needs_gradient: ClassVar[bool] = False

    def __call__(self, site: Site, layers: Layers, gradients: Gradients) -> Scores:
        """One number for each unit."""
        return torch.stack([part.norm(self.p, dim=1) for part in _filters(site, layers)]).mean(dim=0)


L2 = partial(FilterNorm, p=2.0)


@dataclass(frozen=True, kw_only=True)
class GroupNorm:
    """The size of everything a channel has: filters that make it, norms, and weights that read it.

    Formula: s_c = sqrt(sum over layers of ||W_c||^2) [DepGraph; Fang et al. 2023]
    """

    needs_gradient: ClassVar[bool] = False

    def __call__(self, site: Site, layers: Layers, gradients: Gradients) -> Scores:
        """One number for each unit."""
        total = torch.zeros(site.count)
        for part in _filters(site, layers):
            total += part.square().sum(dim=1)
        for name, index in site.columns.items():
            total += layers[name].weight.float().square().sum(dim=0)[index].sum(dim=1)
        return total.sqrt()


@dataclass(frozen=True, kw_only=True)
class BNScale:
    """The scale of the batch norms that follow a channel.

    Formula: s_c = sum over norms of |gamma_c| [network slimming; Liu et al. 2017]
    """

    needs_gradient: ClassVar[bool] = False

    def __call__(self, site: Site, layers: Layers, gradients: Gradients) -> Scores:
        """One number for each unit. Raises InputError where no batch norm follows."""
        total, norms = torch.zeros(site.count), 0
        for name, index in site.rows.items():
            layer = layers[name]
            if not layer.is_matrix and layer.axis is None and layer.module.weight is not None:
                total += layer.weight.float().abs()[index, 0].sum(dim=1)
                norms += 1
        if not norms:
            raise InputError(f"no batch norm follows the channels of {site.name}: use l1, or leave this site out")
        return total


@dataclass(frozen=True, kw_only=True)
class FPGM:
    """How far a channel's filters lie from all others: what lies in the middle can be replaced.

    Formula: s_c = sum over d of ||W_c - W_d||_2 [He et al. 2019]
    """

    needs_gradient: ClassVar[bool] = False

    def __call__(self, site: Site, layers: Layers, gradients: Gradients) -> Scores:
        """One number for each unit."""
        return torch.stack([torch.cdist(part, part).sum(dim=1) for part in _filters(site, layers)]).mean(dim=0)


@dataclass(frozen=True, kw_only=True)
class TaylorChannels:
    """How much the loss changes without a channel, to first order.

    Formula: s_c = |sum over its weights of w dL/dw| [Molchanov et al. 2019]
    """

    needs_gradient: ClassVar[bool] = True

    def __call__(self, site: Site, layers: Layers, gradients: Gradients) -> Scores:
        """One number for each unit."""
        total = torch.zeros(site.count)
        for name, index in site.rows.items():
            if layers[name].is_matrix:
                product = (layers[name].weight.float() * gradients[name]).sum(dim=1)
                total += product[index].sum(dim=1)
        return total.abs()


@dataclass(frozen=True, kw_only=True)
class LAMP:
    """A channel's squared size relative to all that are not smaller, which compares sites with one another.

    Formula: s_c = ||W_c||^2 / sum over d with ||W_d|| >= ||W_c|| of ||W_d||^2 [Lee et al. 2021]
    """

    needs_gradient: ClassVar[bool] = False

    def __call__(self, site: Site, layers: Layers, gradients: Gradients) -> Scores:
        """One number for each unit."""
        squares = torch.stack([part.square().sum(dim=1) for part in _filters(site, layers)]).mean(dim=0)
        order = squares.argsort(stable=True)
        above = squares[order].flip(0).cumsum(0).flip(0)
        scores = torch.empty_like(squares)
        scores[order] = squares[order] / above.clamp_min(torch.finfo(squares.dtype).tiny)
        return scores


@dataclass(frozen=True, kw_only=True)
class RandomChannels:
    """A random number: what any score must beat."""

    seed: int = 0

    needs_gradient: ClassVar[bool] = False

    def __call__(self, site: Site, layers: Layers, gradients: Gradients) -> Scores:
        """One number for each unit."""
        return torch.rand(site.count, generator=generator(self.seed, "channels", site.name))

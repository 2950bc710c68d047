"""verify_network(dense, pruned): a shrunk folder computes what the dense network does with zeros and its weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.adapt.layer import Layer
from secateur.adapt.site import Slice
from secateur.convnet.structure import ChannelStructure, describe_channels
from secateur.core.cut import Cut
from secateur.core.errors import DisagreementError, InputError
from secateur.core.seed import generator
from secateur.storage.network import Network, open_network

__all__ = ["verify_network"]

_STATISTICS = ("running_mean", "running_var", "bias")


@torch.no_grad()
def verify_network(
    dense: str | Path | Network,
    pruned: str | Path,
    *,
    factory: str | Callable[..., nn.Module] | None = None,
    tolerance: float = 1e-4,
) -> float:
    """The largest difference of the outputs on random pictures, relative to the largest output.

    dense: what was pruned; its channels are found anew, and cut.json says which of them stayed.
    Raises DisagreementError above the tolerance, InputError where the two are no pair.
    """
    small = open_network(pruned, factory=factory)
    wide = dense if isinstance(dense, Network) else open_network(dense, weights="none", factory=factory)
    cut = Cut.load(Path(pruned) / "cut.json")
    structure = describe_channels(wide.model, wide.example)
    _fill_(structure, small.model, cut)
    pixels = torch.rand(2, *small.example.shape[1:], generator=generator(0, "verify network"))
    expected, got = wide.model.eval()(pixels), small.model.eval()(pixels)
    far = float((expected - got).abs().max() / expected.abs().max().clamp_min(1e-12))
    if not far <= tolerance:
        raise DisagreementError(
            f"outputs differ from the masked dense network's by {far:.2g} of the largest, allowed is {tolerance:g}: "
            "the two do not belong together"
        )
    return far


def _fill_(structure: ChannelStructure, small: nn.Module, cut: Cut) -> None:
    """Give the dense network the small one's weights where it was kept, and zeros in the columns that are gone."""
    slices, shrunk = structure.slices(cut), structure.of(small)
    rest = dict(small.state_dict())
    for name, layer in structure.layers.items():
        part = slices.get(name, Slice())
        rows = _fill_weight_(layer, shrunk.layers[name], part)
        rest.pop(name if layer.axis is not None else f"{name}.{layer.parameter}", None)
        for leaf in _STATISTICS if layer.axis is None else ():
            value, its = getattr(layer.module, leaf, None), rest.pop(f"{name}.{leaf}", None)
            if isinstance(value, torch.Tensor) and its is not None:
                value.data[rows] = its
    wanted = structure.model.state_dict()
    for name, value in rest.items():  # what no site touches
        if name not in wanted or wanted[name].shape != value.shape:
            raise InputError(f"{name} of the pruned network is none of the dense one's: they are no pair")
        wanted[name].copy_(value)


def _fill_weight_(layer: Layer, narrow: Layer, part: Slice) -> torch.Tensor:
    """Fill one weight and return the rows that were kept. Raises InputError where the cut leads to other shapes."""
    held: Any = getattr(layer.module, layer.parameter)
    if held is None:  # a norm without a weight of its own
        module: Any = layer.module
        return part.kept(module.num_features, 1)[0]
    weight, kept = layer.weight.clone(), narrow.weight
    rows, columns = part.kept(*weight.shape)
    if kept.shape != (len(rows), len(columns)):
        raise InputError(
            f"{layer.name} should be {[len(rows), len(columns)]} after the cut, and is {list(kept.shape)}: the "
            "folder and its cut.json come from another network"
        )
    if part.columns is not None:
        weight[:, part.columns] = 0
    weight[rows[:, None], columns] = kept
    layer.set_weight(weight)
    return rows

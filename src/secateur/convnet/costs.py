"""Costs of a network after a cut: multiply-accumulates, parameters and bytes."""

from collections import Counter
from collections.abc import Mapping
from math import prod
from typing import NamedTuple

from torch import Tensor

from secateur.convnet.structure import ChannelStructure

__all__ = ["Costs", "costs"]


class Costs(NamedTuple):
    """What a network costs: multiply-accumulates for one sample, parameters, and bytes of its parameters."""

    macs: int
    params: int
    bytes: int


def costs(structure: ChannelStructure, keep: Mapping[str, int] | None = None) -> Costs:
    """The costs with so many units kept at each site that is named; every unit of a site costs the same.

    Formula: MACs = sum over layers of rows * columns * positions [as counted by ptflops and others]
    """
    rows, columns = Counter[str](), Counter[str]()
    for site in structure.sites:
        gone = site.count - (keep or {}).get(site.name, site.count)
        for names, index in ((rows, site.rows), (columns, site.columns)):
            for name, places in index.items():
                names[name] += gone * places.shape[1]
    macs = params = size = 0
    for name, layer in structure.layers.items():
        tensors = [tensor for tensor in _tensors(layer) if tensor is not None]
        high = tensors[0].shape[layer.axis or 0] if tensors else 0
        if layer.is_matrix:
            height, width = layer.weight.shape
            left = (height - rows[name]) * (width - columns[name])
            macs += left * structure.positions.get(name, 0)
            gone = height * width - left + (rows[name] if layer.bias is not None else 0)
        else:
            gone = sum(prod(tensor.shape) // high * rows[name] for tensor in tensors)
        params -= gone
        size -= gone * (tensors[0].element_size() if tensors else 0)
    every = list(structure.model.parameters())
    return Costs(
        macs,
        params + sum(value.numel() for value in every),
        size + sum(value.numel() * value.element_size() for value in every),
    )


def _tensors(layer: object) -> list[Tensor | None]:
    module, parameter = layer.module, layer.parameter  # type: ignore[attr-defined]
    names = [parameter] if layer.axis is not None else [parameter, "bias"]  # type: ignore[attr-defined]
    return [module._parameters.get(name) for name in names]

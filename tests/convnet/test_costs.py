import copy

import pytest
import torch
from torch import nn

from convnet.networks import EXAMPLE, NETWORKS, made
from secateur.convnet.costs import costs
from secateur.convnet.structure import describe_channels
from secateur.core.cut import Cut


def counted(model):
    """Multiply-accumulates by hooks: outputs times what each of them sums over."""
    total = []

    def count(module, args, out):
        each = module.weight[0].numel() if not isinstance(module, nn.ConvTranspose2d) else 0
        if isinstance(module, nn.ConvTranspose2d):
            total.append(args[0][0].numel() * module.weight[0].numel() * 4)
        else:
            total.append(out[0].numel() * each)

    kinds = nn.Linear | nn.Conv2d | nn.ConvTranspose2d
    handles = [module.register_forward_hook(count) for module in model.modules() if isinstance(module, kinds)]
    model(EXAMPLE)
    for handle in handles:
        handle.remove()
    return sum(total)


@pytest.mark.parametrize("kind", NETWORKS)
@torch.no_grad()
def test_costs_are_those_of_the_network_that_is_left(kind):
    model = made(kind)
    structure = describe_channels(model, EXAMPLE)
    kept = {site.name: max(1, site.count // 2) for site in structure.sites}
    dense, expected = costs(structure), costs(structure, kept)
    small = structure.of(copy.deepcopy(model))
    small.shrink_(Cut({name: tuple(range(count)) for name, count in kept.items()}))
    if kind != "Upsampled":  # a transposed convolution is counted by its outputs
        assert dense.macs == counted(model) and expected.macs == counted(small.model)
    assert expected.params == sum(value.numel() for value in small.model.parameters()) < dense.params
    assert expected.bytes == 4 * expected.params

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from convnet.networks import EXAMPLE
from secateur.convnet.labels import Labels
from secateur.convnet.leaves import LEAVES, Leaves
from secateur.convnet.trace import trace


def test_a_module_that_runs_twice_reads_one_set_of_channels():
    labels = Labels()
    leaves, module, x = Leaves(labels), nn.Linear(3, 2), torch.rand(1, 3)
    one, two = labels.fresh(3), labels.fresh(3)
    for own in (one, two):
        leaves.ran("a", module, own[None], x, module(x))
    groups = labels.groups()
    assert torch.equal(groups.of(one), groups.of(two)) and leaves.positions["a"] == 2
    leaves.ran("a", module, None, x, module(x))
    assert labels.groups().frozen[labels.groups().of(one)].all()  # once it reads what cannot be removed


@pytest.mark.parametrize("module", [nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Conv2d(4, 8, 3, groups=2)])
def test_positions_count_where_a_weight_is_applied(module):
    labels = Labels()
    leaves, x = Leaves(labels), torch.rand(3, 4, 9, 9)
    out = module(x)
    leaves.ran("a", module, None, x, out)
    assert leaves.positions["a"] == out.shape[2] * out.shape[3]


def test_weights_that_are_computed_keep_what_they_read():
    for wrapped in (parametrizations.weight_norm(nn.Conv2d(6, 4, 1)), nn.utils.spectral_norm(nn.Conv2d(6, 4, 1))):
        traced = trace(nn.Sequential(nn.Conv2d(3, 6, 1), wrapped), EXAMPLE)
        assert (traced.groups.free(traced.rows["0"]) == -1).all()
        assert any("computed weight of 1" in reason for reason in traced.groups.reasons)


def test_every_kind_that_can_be_cut_has_a_rule():
    assert {nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm2d, nn.PReLU} <= set(LEAVES)

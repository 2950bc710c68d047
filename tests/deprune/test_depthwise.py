import pytest
import torch
from torch import nn
from torch.nn.functional import pad, unfold

from convnet.networks import made
from deprune.networks import mobile, network, pixels
from secateur.convnet.structure import describe_channels
from secateur.core.errors import ModelError
from secateur.deprune.depthwise import depthwise_layers, describe_separable, importance, permute_, tap_grams


def test_kernels_and_sites_are_found():
    parts = describe_separable(mobile(), pixels(1), "expanded")
    assert [own.name for own in parts.kernels] == [f"blocks.{number}.depthwise" for number in range(3)]
    assert [own.taps for own in parts.kernels] == [9, 25, 9]
    assert [site.count for site in parts.sites] == [64, 48, 80] and set(parts.scores) == {s.name for s in parts.sites}
    assert all(own.site is site for own, site in zip(parts.kernels, parts.sites, strict=True))
    tied = describe_separable(mobile(), pixels(1), "projected").sites
    assert [site.count for site in tied] == [16, 24] and not describe_separable(mobile(), pixels(1), "none").sites


def test_a_multiplier_is_no_depthwise_layer_and_a_network_without_any_is_refused():
    model = made("Gated")
    assert not depthwise_layers(describe_channels(model, torch.rand(1, 3, 8, 8)))
    with pytest.raises(ModelError, match="no depthwise convolution"):
        describe_separable(model, torch.rand(1, 3, 8, 8), "expanded")


@torch.no_grad()
def test_channels_in_another_order_compute_the_same():
    own = network()
    parts = describe_separable(own.model, own.example, "expanded")
    expected = own.model(pixels(3))
    for seed, site in enumerate(parts.sites):
        order = torch.randperm(site.count, generator=torch.Generator().manual_seed(seed))
        first = parts.kernels[seed].module.weight.detach().clone()
        permute_(parts.structure, site, order)
        assert torch.equal(parts.kernels[seed].module.weight, first[order])
    assert torch.allclose(own.model(pixels(3)), expected, atol=1e-5)


class SamePadded(nn.Conv2d):
    """It pads by itself, unevenly."""

    def forward(self, x):
        return super().forward(pad(x, (0, 1, 1, 2)))


@pytest.mark.parametrize(
    ("kind", "sides", "settings"),
    [(nn.Conv2d, (1, 1, 1, 1), {"padding": 1}), (SamePadded, (0, 1, 1, 2), {"stride": 2}), (nn.Conv2d, (0,) * 4, {})],
)
@torch.no_grad()
def test_grams_are_of_what_taps_read(kind, sides, settings):
    module = kind(4, 4, 3, groups=4, **settings)
    weight, bias = module.weight.detach().clone(), module.bias
    x = torch.rand(9, 4, 7, 6)
    patches = unfold(pad(x, sides), 3, stride=settings.get("stride", 1)).reshape(9, 4, 9, -1)
    read = patches.permute(1, 2, 0, 3).flatten(2)
    assert torch.allclose(tap_grams(module, x), read @ read.transpose(1, 2) / read.shape[2], atol=1e-5)
    assert torch.equal(module.weight, weight) and module.bias is bias


def test_importance_is_the_norms_gain_times_what_reads():
    own = network()
    parts = describe_separable(own.model, own.example, "expanded")
    block = own.model.blocks[0]
    gain = block.norm.weight / (block.norm.running_var + block.norm.eps).sqrt()
    expected = gain.abs() * block.project[0].weight.flatten(1).norm(dim=0)
    assert torch.allclose(importance(parts.structure, parts.kernels[0]), expected, rtol=1e-4)
    assert (importance(parts.structure, parts.kernels[0]._replace(site=None)) == 1).all()

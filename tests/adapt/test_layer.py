import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from secateur.adapt.layer import Layer
from secateur.adapt.site import Slice
from secateur.core.errors import ModelError

# What each kind computes from its matrix alone: convolutions of kernel 1 are linear in every place.
KINDS = [nn.Linear(6, 4), Conv1D(4, 6), nn.Conv2d(6, 4, 3), nn.Conv2d(6, 4, 3, groups=2), nn.Conv1d(6, 4, 3)]


@pytest.mark.parametrize("module", KINDS, ids=lambda module: type(module).__name__)
def test_a_weight_goes_in_as_it_comes_out(module):
    layer = Layer("x", module)
    assert layer.weight.shape[0] == 4
    new = torch.randn_like(layer.weight)
    layer.set_weight(new)
    assert torch.equal(layer.weight, new) and layer.size == new.numel() + 4


def test_a_convolution_is_the_matrix_of_its_patches():
    module = nn.Conv2d(6, 4, 3)
    x = torch.randn(2, 6, 5, 5)
    patches = nn.functional.unfold(x, 3)
    expected = Layer("x", module).weight @ patches + module.bias[:, None]
    assert torch.allclose(module(x).flatten(2), expected, atol=1e-5)


@pytest.mark.parametrize("make", [lambda: nn.Linear(6, 4), lambda: Conv1D(4, 6)])
def test_cut_linear_layers_compute_what_is_left(make):
    module, x = make(), torch.randn(3, 6)
    rows, columns = torch.tensor([0, 3]), torch.tensor([1, 2, 5])
    expected = nn.functional.linear(
        x[:, columns], Layer("x", module).weight[rows][:, columns], module.bias.detach()[rows]
    )
    Layer("x", module).cut_(Slice(torch.tensor([1, 2]), torch.tensor([0, 3, 4])))
    assert torch.allclose(module(x[:, columns]), expected, atol=1e-6)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_cut_convolution_computes_what_is_left(groups):
    module, x = nn.Conv2d(4, 6, 3, groups=groups), torch.randn(1, 4, 7, 7)
    rows = torch.tensor([0, 2, 3, 5])  # of two groups of three, two each
    expected = module(x)[:, rows]
    Layer("x", module).cut_(Slice(rows=torch.tensor([1, 4])))
    assert torch.allclose(module(x), expected, atol=1e-6) and module.out_channels == 4
    if groups == 1:
        kept = torch.tensor([1, 3])
        blind = x.clone()
        blind[:, [0, 2]] = 0
        expected = module(blind)
        Layer("x", module).cut_(Slice(columns=(torch.tensor([[0], [2]]) * 9 + torch.arange(9)).flatten()))
        assert torch.allclose(module(x[:, kept]), expected, atol=1e-6) and module.in_channels == 2


def test_a_depthwise_convolution_loses_channels_and_groups_together():
    module, x = nn.Conv2d(5, 10, 3, groups=5), torch.randn(1, 5, 7, 7)
    kept = torch.tensor([0, 3, 4])
    rows = (kept[:, None] * 2 + torch.arange(2)).flatten()
    expected = module(x)[:, rows]
    Layer("x", module).cut_(Slice(rows=torch.tensor([2, 3, 4, 5])))
    assert (module.groups, module.in_channels, module.out_channels) == (3, 3, 6)
    assert torch.allclose(module(x[:, kept]), expected, atol=1e-6)


def test_a_batch_norm_loses_its_statistics_too():
    module, x, rows = nn.BatchNorm2d(5), torch.randn(4, 5, 3, 3), torch.tensor([1, 4])
    nn.init.normal_(module.weight)
    module(x)
    module.eval()
    expected = module(x)[:, rows]
    Layer("x", module).cut_(Slice(rows=torch.tensor([0, 2, 3])))
    assert torch.allclose(module(x[:, rows]), expected) and module.num_features == 2


def test_an_embedding_is_hidden_by_vocabulary():
    module, rows = nn.Embedding(9, 5), torch.tensor([0, 2])
    expected = module(torch.arange(9))[:, rows]
    Layer("x", module).cut_(Slice(rows=torch.tensor([1, 3, 4])))
    assert torch.equal(module(torch.arange(9)), expected) and module.embedding_dim == 2


@pytest.mark.parametrize("turned", [False, True])
def test_an_expert_is_one_matrix_of_three_dimensions(turned):
    module = nn.Module()
    module.up = nn.Parameter(torch.randn(3, 4, 5))
    layer, others = Layer("x", module, "up", 1, turned), module.up[[0, 2]].clone()
    assert layer.weight.shape == ((5, 4) if turned else (4, 5))
    new = torch.randn_like(layer.weight)
    layer.set_weight(new)
    assert torch.equal(module.up[1], new.T if turned else new) and torch.equal(module.up[[0, 2]], others)
    with pytest.raises(ModelError, match="one shape"):
        layer.reshape_(1, 1)


def test_other_modules_are_refused_by_kind():
    with pytest.raises(ModelError, match="x is a LSTM, and weights are known of Linear"):
        _ = Layer("x", nn.LSTM(2, 2)).weight


@torch.no_grad()
def test_moved_rows_take_their_bias_and_statistics_along():
    module, norm, x = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4).eval(), torch.randn(2, 3, 5, 5)
    for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        values.uniform_(0.5, 1.5)
    expected, by = norm(module(x)), torch.tensor([2, 0, 3, 1])
    for layer in (Layer("a", module), Layer("b", norm)):
        layer.move_rows_(torch.arange(4), by)
    assert torch.allclose(norm(module(x)), expected[:, by], atol=1e-6)

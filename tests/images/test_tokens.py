import pytest
import torch
from torch import nn

from secateur.adapt.layer import Layer
from secateur.images.tokens import spread_answers, tokens_of, understood

X = torch.rand(5, 4, 9, 11, generator=torch.Generator().manual_seed(0))
LAYERS = {
    "plain": nn.Conv2d(4, 6, 3),
    "padded": nn.Conv2d(4, 6, 3, padding=1, stride=2),
    "same": nn.Conv2d(4, 6, 5, padding="same"),
    "dilated": nn.Conv2d(4, 6, 3, dilation=2, padding=(2, 1)),
    "pointwise": nn.Conv2d(4, 6, 1, stride=2),
    "valid": nn.Conv2d(4, 6, (1, 3), padding="valid"),
    "linear": nn.Linear(11, 6),
}


@pytest.mark.parametrize("most", [10**6, 60, 1])
@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_tokens_times_the_weight_are_what_the_layer_computes(name, most):
    module = LAYERS[name]
    layer, out = Layer(name, module), module(X)
    tokens = tokens_of(module, X, most)
    assert torch.allclose(tokens @ layer.weight.T + module.bias, spread_answers(module, out, most), atol=1e-5)
    assert understood(layer, tokens, out, most) and not understood(layer, tokens, out + 1, most)


@torch.no_grad()
def test_what_pads_by_itself_is_not_understood():
    module = nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect")
    assert not understood(Layer("x", module), tokens_of(module, X, 10**6), module(X), 10**6)

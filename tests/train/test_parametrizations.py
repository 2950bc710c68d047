import torch
from torch import nn
from torch.nn.utils import parametrize

from secateur.train.parametrizations import Kept, LoRA, keep_zeros_


def sparse():
    weight = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    weight[:, ::2] = 0
    return weight


def test_zeros_get_no_gradient_and_stay():
    module = nn.Linear(8, 6, bias=False)
    module.weight.data.copy_(sparse())
    parametrize.register_parametrization(module, "weight", Kept(module.weight))
    module(torch.ones(1, 8)).sum().backward()
    gradient = module.parametrizations.weight.original.grad
    assert not gradient[:, ::2].any() and (gradient[:, 1::2] == 1).all()


def test_a_low_rank_change_starts_at_nothing_and_leaves_zeros():
    weight = sparse()
    change = LoRA(weight, 2, "layer")
    assert torch.equal(change(weight), weight)
    change.up.data.fill_(1.0)
    moved = change(weight) - weight
    assert not moved[:, ::2].any() and moved[:, 1::2].abs().min() > 0


def test_the_rank_is_bounded_by_the_matrix_and_named_numbers_repeat():
    weight = sparse()
    assert LoRA(weight, 64, "a").down.shape == (6, 8)
    assert torch.equal(LoRA(weight, 2, "a").down, LoRA(weight, 2, "a").down)
    assert not torch.equal(LoRA(weight, 2, "a").down, LoRA(weight, 2, "b").down)


def test_zeros_stay_through_descent_with_momentum_and_decay():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4, 3))
    with torch.no_grad():
        model[0].weight[:, :, 1] = 0
    before = model[0].weight.detach().clone()
    keep_zeros_(model)
    descent = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.01)
    for _ in range(5):
        descent.zero_grad()
        model(torch.rand(6, 2, 3, 3)).square().sum().backward()
        descent.step()
    assert torch.equal(model[0].weight == 0, before == 0) and not torch.equal(model[0].weight, before)

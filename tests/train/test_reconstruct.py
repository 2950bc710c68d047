import pytest
import torch
from torch import nn

from secateur.adapt.layer import Layer
from secateur.core.errors import InputError
from secateur.core.seed import generator
from secateur.train.reconstruct import Reconstruction, block_error, reconstruct_


class Net(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        self.one, self.two = nn.Linear(8, 16, bias=False), nn.Linear(16, 8, bias=False)
        for number, layer in enumerate((self.one, self.two)):
            layer.weight.data = torch.randn(layer.weight.shape, generator=generator(seed, "net", number)) / 3
        self.requires_grad_(False)

    def forward(self, x):
        return x + self.two(torch.relu(self.one(x)))


def pruned(seed=0):
    dense, small = Net(seed), Net(seed)
    layers = [Layer("one", small.one), Layer("two", small.two)]
    keep = {layer: layer.weight.abs() > layer.weight.abs().median() for layer in layers}
    for layer, mask in keep.items():
        layer.set_weight(layer.weight * mask)
    batches = [torch.randn(2, 12, 8, generator=generator(seed, "batch", number)) for number in range(12)]
    return small, keep, batches, [dense(batch) for batch in batches]


@pytest.mark.parametrize("seed", range(3))
def test_the_error_falls_masks_stay_and_nothing_else_moves(seed):
    small, keep, batches, targets = pruned(seed)
    before, after = reconstruct_(keep, small, batches, targets, Reconstruction(steps=60, rate=0.01), seed=seed)
    assert after < 0.9 * before
    held = [block_error(small(x), x, y) for x, y in zip(batches[-1:], targets[-1:], strict=True)]
    assert float(torch.stack(held).mean()) == pytest.approx(after, rel=1e-5)
    assert all(not layer.weight[~mask].any() for layer, mask in keep.items())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in small.parameters())


def test_training_that_makes_it_worse_is_not_kept():
    small, keep, batches, targets = pruned()
    held = [parameter.clone() for parameter in small.parameters()]
    before, after = reconstruct_(keep, small, batches, targets, Reconstruction(steps=5, rate=1.0))
    assert before == after and all(torch.equal(*pair) for pair in zip(held, small.parameters(), strict=True))


def test_one_matrix_of_a_shared_parameter_is_trained_and_the_others_stay():
    experts = nn.Module()
    experts.up = nn.Parameter(torch.randn(3, 8, 8, generator=generator(0, "experts")), requires_grad=False)
    others = experts.up.clone()
    layer = Layer("up.1", experts, "up", index=1)
    batches = [torch.randn(2, 64, 8, generator=generator(1, "batch", number)) for number in range(4)]
    targets = [x + torch.relu(x @ others[1].T) for x in batches]
    keep = {layer: torch.rand(8, 8, generator=generator(2, "keep")) > 0.5}
    layer.set_weight(layer.weight * keep[layer])
    reconstruct_(keep, lambda x: x + torch.relu(x @ experts.up[1].T), batches, targets, Reconstruction(rate=0.01))
    assert torch.equal(experts.up[[0, 2]], others[[0, 2]]) and not torch.equal(experts.up[1], others[1] * keep[layer])
    assert not layer.weight[~keep[layer]].any()


def test_the_same_seed_gives_the_same_bits():
    results = []
    for _ in range(2):
        small, keep, batches, targets = pruned()
        reconstruct_(keep, small, batches, targets, Reconstruction(steps=7), seed=3)
        results.append(small.one.weight.clone())
    assert torch.equal(*results)


def test_fields_outside_their_range_are_refused():
    for fields in ({"steps": 0}, {"rate": 0.0}):
        with pytest.raises(InputError, match="reconstruct needs"):
            Reconstruction(**fields)

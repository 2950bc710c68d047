import copy

import pytest
import torch
from torch import nn

from deprune.networks import mobile, pixels
from secateur.core.errors import InputError
from secateur.train.local import Parts, pruned_parts
from secateur.train.reconstruct import Reconstruction


def pruned(*layers):
    """Without half of the taps or columns of these layers."""
    model = mobile()
    for name in layers:
        weight = model.get_submodule(name).weight
        with torch.no_grad():
            flat = weight.flatten(1)
            flat.scatter_(1, flat.abs().argsort(dim=1)[:, : flat.shape[1] // 2], 0.0)
    return model


def narrow(model, number):
    """Half of a block's middle channels are gone."""
    block = model.blocks[number]
    width = block.depthwise.out_channels // 2
    with torch.no_grad():
        for layer in (block.expand[0], block.depthwise, block.expand[1], block.norm):
            layer.weight = nn.Parameter(layer.weight[:width])
        for norm in (block.expand[1], block.norm):
            norm.bias = nn.Parameter(norm.bias[:width])
            norm.running_mean, norm.running_var = norm.running_mean[:width], norm.running_var[:width]
        block.depthwise.groups = width
        block.project[0].weight = nn.Parameter(block.project[0].weight[:, :width])
    return model


@pytest.mark.parametrize("model", [pruned("blocks.1.depthwise"), narrow(mobile(), 1), pruned("blocks.1.project.0")])
def test_the_part_is_the_block_around_what_was_pruned(model):
    assert pruned_parts(model, mobile(), pixels(1)) == ["blocks.1"]


def test_what_only_the_network_is_around_is_left_to_the_parts_that_follow():
    assert pruned_parts(pruned("stem.0", "blocks.2.depthwise"), mobile(), pixels(1)) == ["blocks.2"]
    assert pruned_parts(pruned("stem.0"), mobile(), pixels(1)) == [""]
    assert pruned_parts(pruned("head"), mobile(), pixels(1)) == [""]


def errors(model, dense, x):
    """Of every block, on what the network before it puts out."""
    found = []
    with torch.no_grad():
        reads, wanted = model.stem(x), dense.stem(x)
        for block, whole in zip(model.blocks, dense.blocks, strict=True):
            reads, wanted = block(reads), whole(wanted)
            found.append(float((reads - wanted).square().sum() / wanted.square().sum()))
    return found


def test_parts_are_trained_one_after_another_on_what_those_before_put_out():
    model, dense, x = pruned("blocks.0.depthwise", "blocks.2.depthwise"), mobile(), pixels(60)
    parts = Parts(model, dense, x, batch=6)
    assert parts.names == ["blocks.0", "blocks.2"]
    start = errors(model, dense, x[54:])
    zeros = {name: own == 0 for name, own in model.named_parameters()}
    frozen = {name: own.clone() for name, own in model.state_dict().items() if "running" in name or "blocks.1" in name}
    before, after = parts.train_(0, Reconstruction(steps=80, rate=0.003))
    between = errors(model, dense, x[54:])
    assert before == pytest.approx(start[0], rel=1e-4) and after == pytest.approx(between[0], rel=1e-4)
    assert after < 0.9 * before
    before, after = parts.train_(1, Reconstruction(steps=80, rate=0.003))
    assert before == pytest.approx(between[2], rel=1e-4)
    assert after == pytest.approx(errors(model, dense, x[54:])[2], rel=1e-4) and after < before
    now = dict(model.named_parameters())
    assert all(not now[name][gone].any() for name, gone in zeros.items() if now[name].dim() > 1)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in frozen.items())
    assert set(parts.parameters(1)) == {name for name in now if name.startswith("blocks.0.")}
    assert set(parts.parameters(2)) - set(parts.parameters(1)) == {name for name in now if name.startswith("blocks.2.")}


def test_a_part_that_follows_another_reads_what_that_puts_out_and_the_same_from_the_pictures():
    model, dense, x = pruned("blocks.0.depthwise", "blocks.1.depthwise"), mobile(), pixels(24)
    parts = Parts(model, dense, x, batch=8)
    parts.train_(0, Reconstruction(steps=4))
    chained = parts._inputs("blocks.1")
    assert parts._last is not None and chained[0] is parts._last[1]
    parts._last = None
    assert all(torch.equal(*pair) for one, two in zip(chained, parts._inputs("blocks.1"), strict=True)
               for pair in zip(one, two, strict=True))  # fmt: skip


class Written(nn.Module):
    """An activation that writes into what the part reads or puts out."""

    def __init__(self, within):
        super().__init__()
        act = nn.ReLU(inplace=True)
        self.first = nn.Conv2d(3, 6, 1)
        layers = (nn.Conv2d(6, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))
        self.block = nn.Sequential(act, *layers) if within else nn.Sequential(*layers)
        self.act, self.head = nn.Identity() if within else act, nn.Sequential(nn.Conv2d(4, 5, 1), nn.Conv2d(5, 2, 1))

    def forward(self, x):
        return self.head(self.act(self.block(self.first(x)))).mean((2, 3))


@pytest.mark.parametrize("within", [False, True])
def test_an_activation_that_writes_in_place_does_not_change_what_is_wanted(within):
    torch.manual_seed(0)
    dense = Written(within)
    model = copy.deepcopy(dense)
    with torch.no_grad():
        model.block[-1].weight[:2] = 0
        model.head[0].weight[:2] = 0
    x = pixels(10)
    parts = Parts(model, dense, x, batch=10)
    assert parts.names == ["block", "head"]
    with torch.no_grad():
        full, made = dense.block(dense.first(x)), model.block(model.first(x))
        expected = float((made - full).square().sum() / full.square().sum())
    before, after = parts.train_(0, Reconstruction(steps=20, rate=0.01))
    assert before == pytest.approx(expected, rel=1e-5) and after < before and bool((full < 0).any())
    with torch.no_grad():
        read = [own.act(own.block(own.first(x))) for own in (model, dense)]
        made, full = model.head(read[0]), dense.head(read[1])
        expected = float((made - full).square().sum() / full.square().sum())
    assert parts.train_(1, Reconstruction(steps=1))[0] == pytest.approx(expected, rel=1e-5)


def test_another_network_and_an_unpruned_one_are_refused():
    with pytest.raises(InputError, match="nothing to learn"):
        pruned_parts(mobile(), mobile(), pixels(1))
    other = mobile()
    other.head = nn.Linear(24, 7)
    with pytest.raises(InputError, match="dense network"):
        pruned_parts(pruned("stem.0"), other, pixels(1))
    with pytest.raises(InputError, match=r"has no .*weight"):
        pruned_parts(pruned("stem.0"), nn.Linear(3, 2), pixels(1))

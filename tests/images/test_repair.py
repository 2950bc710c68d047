import copy

import pytest
import torch
from torch import nn

from convnet.networks import NETWORKS, made
from secateur.convnet.structure import describe_channels
from secateur.core.cut import Cut
from secateur.images.repair import Repair, repair_

X = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def halved(structure):
    return Cut({site.name: tuple(range(0, site.count, 2)) for site in structure.sites if site.count > 1})


@pytest.mark.parametrize("kind", NETWORKS)
@torch.no_grad()
def test_refitted_networks_are_nearer_to_the_dense_one(kind):
    model = made(kind)
    dense = model(X)
    structure = describe_channels(model, X[:1])
    cut = halved(structure)
    far = {}
    for refit in (False, True):
        own = structure.of(copy.deepcopy(model))
        done = repair_(own, cut, X, Repair(refit=refit, norms=refit, damp=1e-4))
        assert done.cut == cut
        own.shrink_(cut)
        far[refit] = float((own.model(X) - dense).square().mean())
    assert far[True] < far[False]


@torch.no_grad()
def test_one_layer_is_solved_by_least_squares():
    reader = nn.Conv2d(6, 4, 3, stride=2, padding=1, bias=False)
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), reader)
    dense = model(X)
    structure = describe_channels(model, X[:1])
    (site,) = structure.sites
    cut = Cut({site.name: (0, 2, 5)})
    hidden = torch.tanh(model[0](X))[:, [0, 2, 5]]
    patches = nn.functional.unfold(hidden, 3, padding=1, stride=2).transpose(1, 2).flatten(0, 1)
    expected = torch.linalg.lstsq(patches, dense.flatten(2).transpose(1, 2).flatten(0, 1)).solution.T
    repair_(structure, cut, X, Repair(damp=0.0))
    structure.shrink_(cut)
    assert torch.allclose(model[2].weight.flatten(1), expected, atol=1e-3)


@torch.no_grad()
def test_nothing_changes_where_nothing_is_removed():
    model = made("Residual")
    before = copy.deepcopy(model.state_dict())
    repair_(describe_channels(model, X[:1]), Cut({}), X, Repair())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@torch.no_grad()
def test_norms_are_corrected_by_how_their_inputs_changed():
    model = made("Residual")
    structure = describe_channels(model, X[:1])
    before = copy.deepcopy(model)
    cut = Cut({"first.0": (0, 1)})
    seen = {}
    repair_(structure, cut, X, Repair(refit=False))
    for name, one in (("dense", before), ("pruned", model)):
        one.second[1].register_forward_pre_hook(lambda module, args, name=name: seen.update({name: args[0]}))
        one(X)
    shift = seen["pruned"].mean((0, 2, 3)) - seen["dense"].mean((0, 2, 3))
    assert torch.allclose(model.second[1].running_mean, before.second[1].running_mean + shift, atol=1e-4)
    assert torch.equal(model.stem[1].running_mean, before.stem[1].running_mean)


class Padded(nn.Conv2d):
    """A convolution that pads by itself, as those do that follow TensorFlow."""

    def forward(self, x):
        return super().forward(nn.functional.pad(x, (0, 1, 0, 1)))


@torch.no_grad()
def test_what_computes_otherwise_is_left_and_named():
    model = nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.ReLU(), Padded(6, 4, 2), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 1, groups=2)
    )
    structure = describe_channels(model, X[:1])
    done = repair_(structure, halved(structure), X, Repair())
    assert "computes otherwise" in done.skipped["2"] and "grouped" in done.skipped["4"]


@torch.no_grad()
def test_channels_chosen_anew_lose_less_on_what_calibrates():
    torch.manual_seed(0)  # greedy choice is better on most draws, and not on all
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 5))
    x = torch.randn(400, 8)
    dense, structure = model(x), describe_channels(model, x[:1])
    cut, far = Cut({structure.sites[0].name: (0, 1, 2, 3)}), []
    for choose in (False, True):
        own = structure.of(copy.deepcopy(model))
        done = repair_(own, cut, x, Repair(choose=choose, damp=1e-4))
        own.shrink_(done.cut)
        far.append(float((own.model(x) - dense).square().mean()))
    assert far[1] < far[0] and len(done.cut.kept[structure.sites[0].name]) == 4


def test_an_edited_layer_is_changed_when_it_is_reached_and_its_readers_are_solved():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1)).eval()
    model = nn.Sequential(*model, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x, seen = torch.rand(16, 3, 9, 9), []
    expected = model(x).detach()
    reader = model[2].weight.detach().clone()

    def edit(module, read):
        seen.append(read.shape)
        module.weight[:, :, 1] = 0

    plain = [model[1].weight.detach().clone(), None]
    with torch.no_grad():
        model[1].weight[:, :, 1] = 0
        plain[1] = float((model(x) - expected).square().mean())
        model[1].weight.copy_(plain[0])
    repair_(describe_channels(model, x[:1]), Cut({}), x, Repair(damp=0.01), {"1": edit})
    assert seen == [(16, 8, 9, 9)] and not model[1].weight[:, :, 1].any() and not torch.equal(model[2].weight, reader)
    assert float((model(x) - expected).square().mean().detach()) < 0.5 * plain[1]

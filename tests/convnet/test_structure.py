import copy

import pytest
import torch
from torch import nn

from convnet.networks import EXAMPLE, NETWORKS, made
from secateur.convnet.structure import describe_channels
from secateur.core.cut import Cut
from secateur.core.errors import InputError, ModelError

SITES = {  # by hand: what can be removed of each, and how many units that is
    "Residual": {"stem.0": 8, "first.0": 6},
    "Concatenated": {"a": 4, "b": 6},
    "Shuffled": {"stem": 4, "inner": 6, "last": 7},
    "Grouped": {"a": 6, "b": 4, "c": 8},
    "Gated": {"expand": 6, "down": 4, "project": 7},
    "Scaled": {"up": 16},
    "Bare": {"a": 6, "b": 7},
    "Listed": {  # three parts of one convolution, and the halves of another, which lose equal places
        "stem": 2,
        "stem/2": 3,
        "stem/3": 4,
        **dict.fromkeys(("parts.0", "parts.1", "parts.2", "body"), 4),
        **dict.fromkeys(("halves.0", "halves.1"), 3),
    },
    "Selected": {"one": 6, "down": 4},
    "Twice": {"stem": 6},
    "Upsampled": {"a": 6, "b": 8},
    "Attended": {"up": 20},
    "Multiplied": {"up": 20},
    "Plain": {"body.1": 16, "body.4": 9},
}


def random_cut(structure, seed):
    stream = torch.Generator().manual_seed(seed)
    kept = {}
    for site in structure.sites:
        count = int(torch.randint(1, site.count + 1, (), generator=stream))
        kept[site.name] = tuple(sorted(torch.randperm(site.count, generator=stream)[:count].tolist()))
    return Cut(kept)


@pytest.mark.parametrize("kind", NETWORKS)
def test_sites_are_those_one_finds_by_hand(kind):
    structure = describe_channels(made(kind), EXAMPLE)
    assert {site.name: site.count for site in structure.sites} == SITES[kind]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", NETWORKS)
@torch.no_grad()
def test_the_shrunk_network_computes_what_the_masked_one_does(kind, seed):
    model = made(kind, seed)
    structure = describe_channels(model, EXAMPLE)
    cut = random_cut(structure, seed)
    small, masked = structure.of(copy.deepcopy(model)), structure.of(copy.deepcopy(model))
    masked.mask_(cut)
    small.shrink_(cut)
    assert torch.allclose(small.model(EXAMPLE), masked.model(EXAMPLE), rtol=1e-4, atol=1e-4)
    assert sum(value.numel() for value in small.model.parameters()) < sum(v.numel() for v in model.parameters())
    assert all(value.requires_grad for value in small.model.parameters())


def test_nothing_of_the_model_changes_while_it_is_described():
    model = made("Residual").train()
    before = copy.deepcopy(model.state_dict())
    describe_channels(model, EXAMPLE)
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model._forward_hooks and not model.stem[0]._forward_pre_hooks


def test_a_size_that_is_written_into_the_code_keeps_its_channels():
    class Written(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 4, 1), nn.Linear(10, 5)

        def forward(self, x):
            return self.head(torch.cat([self.a(x).reshape(len(x), 6, 64).mean(2), self.b(x).mean((2, 3))], dim=1))

    structure = describe_channels(Written().eval(), EXAMPLE)
    assert [site.name for site in structure.sites] == ["b"]
    assert any("half of a" in reason for reason in structure.reasons)


def test_refusals_name_what_is_wrong():
    with pytest.raises(ModelError, match="no channel that can be removed"):
        describe_channels(nn.Linear(8, 5), EXAMPLE)
    with pytest.raises(ModelError, match=r"does not run on 2x3x8x8 input, at stem\.0"):
        describe_channels(Wrong(), EXAMPLE)
    structure = describe_channels(made("Residual"), EXAMPLE)
    with pytest.raises(InputError, match="no site 'wheel'"):
        structure.slices(Cut({"wheel": (0,)}))
    with pytest.raises(InputError, match="keeps no channel"):
        structure.slices(Cut({"stem.0": ()}))


class Wrong(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(4, 2, 1))

    def forward(self, x):
        return self.stem(x)

import pytest
import torch

from convnet.networks import EXAMPLE, made
from secateur.convnet.structure import describe_channels
from secateur.core.errors import InputError
from secateur.score.filters import (
    FPGM,
    L2,
    LAMP,
    BNScale,
    ChannelScore,
    FilterNorm,
    GroupNorm,
    RandomChannels,
    TaylorChannels,
)


@pytest.fixture
def structure():
    return describe_channels(made("Residual"), EXAMPLE)


def test_norms_are_means_over_the_layers_that_make_a_channel(structure):
    stream, model = structure.site("stem.0"), structure.model
    filters = (model.stem[0].weight, model.second[0].weight)
    for score, p in ((FilterNorm(), 1), (L2(), 2)):
        expected = sum(weight.flatten(1).norm(p, dim=1) for weight in filters) / 2
        assert torch.allclose(score(stream, structure.layers, {}), expected)


def test_a_group_norm_counts_what_reads_a_channel(structure):
    inner, model = structure.site("first.0"), structure.model
    read = model.second[0].weight.square().sum((0, 2, 3))
    expected = (model.first[0].weight.square().flatten(1).sum(1) + read).sqrt()
    assert torch.allclose(GroupNorm()(inner, structure.layers, {}), expected)


def test_scales_of_batch_norms_are_added_up(structure):
    stream, model = structure.site("stem.0"), structure.model
    expected = model.stem[1].weight.abs() + model.second[1].weight.abs()
    assert torch.allclose(BNScale()(stream, structure.layers, {}), expected)
    bare = describe_channels(made("Concatenated"), EXAMPLE)
    with pytest.raises(InputError, match="no batch norm follows the channels of a"):
        BNScale()(bare.site("a"), bare.layers, {})


def test_what_lies_in_the_middle_scores_least(structure):
    inner = structure.site("first.0")
    structure.model.first[0].weight.data[2] = structure.model.first[0].weight.data.mean(0)
    assert int(FPGM()(inner, structure.layers, {}).argmin()) == 2


def test_lamp_is_one_for_the_largest_and_keeps_the_order(structure):
    inner = structure.site("first.0")
    lamp, norm = LAMP()(inner, structure.layers, {}), L2()(inner, structure.layers, {})
    assert torch.equal(lamp.argsort(), norm.argsort()) and float(lamp.max()) == 1.0
    squares = norm.square()
    expected = torch.stack([value / squares[squares >= value].sum() for value in squares])
    assert torch.allclose(lamp, expected)


def test_taylor_sums_weights_times_gradients(structure):
    inner, weight = structure.site("first.0"), structure.model.first[0].weight.flatten(1)
    gradients = {"first.0": torch.rand(weight.shape)}
    expected = (weight * gradients["first.0"]).sum(1).abs()
    assert torch.allclose(TaylorChannels()(inner, structure.layers, gradients), expected)


@pytest.mark.parametrize("score", [FilterNorm(), L2(), GroupNorm(), FPGM(), LAMP(), BNScale(), RandomChannels()])
def test_every_score_gives_one_finite_number_a_unit(structure, score):
    assert isinstance(score, ChannelScore)
    for site in structure.sites:
        values = score(site, structure.layers, {})
        assert values.shape == (site.count,) and torch.isfinite(values).all()

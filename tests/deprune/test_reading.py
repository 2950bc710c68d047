from itertools import combinations

import pytest
import torch

from deprune.networks import network, pixels
from secateur.deprune.depthwise import describe_separable
from secateur.deprune.reading import reading_errors


def least(weight, x, wanted, gone):
    """||W X - W' X||^2 a token without these columns, W' solved, over what is wanted; X damped by rows of its own."""
    pull = (0.01 * x.square().sum() / x.shape[1]).sqrt() * torch.eye(x.shape[1])
    tokens, x = len(x), torch.cat([x, pull])
    kept = [column for column in range(weight.shape[1]) if column not in gone]
    answer = torch.linalg.lstsq(x[:, kept].double(), (x @ weight.T).double()).solution
    left = (x @ weight.T).double() - x[:, kept].double() @ answer
    return float(left.square().sum()) / tokens / wanted


@pytest.mark.parametrize("number", [0, 1])
def test_errors_are_those_of_least_squares_and_the_search_is_near_the_best(number):
    own = network()
    parts = describe_separable(own.model, own.example, "expanded")
    site, block, x = parts.sites[number], own.model.blocks[number], pixels(32)
    seen = {}
    block.project[0].register_forward_pre_hook(lambda module, args: seen.update(x=args[0]))
    block.register_forward_hook(lambda module, args, out: seen.update(y=out))
    with torch.no_grad():
        own.model(x)
        rows = seen["x"].movedim(1, -1).flatten(0, -2)
        norm = block.project[1]
        weight = block.project[0].weight.flatten(1) * (norm.weight * (norm.running_var + norm.eps).rsqrt())[:, None]
        wanted = float(seen["y"].square().sum(1).mean())  # with what the block is added to
        single = [least(weight, rows, wanted, {column}) for column in range(site.count)]
        found = reading_errors(parts.structure, [site], x, (1 / site.count, 0.5, 1.0))[site.name]
    assert found[0] == pytest.approx(min(single) ** 0.5, rel=0.05)
    best = min(least(weight, rows, wanted, set(pair)) for pair in combinations(range(0, site.count, 7), 2))
    assert reading_errors(parts.structure, [site], x, (2 / site.count,))[site.name][0] <= best**0.5 * 1.05
    assert found[0] < found[1] < found[2]
    assert found[2] == pytest.approx((float((rows @ weight.T).square().sum(1).mean()) / wanted) ** 0.5, rel=0.05)


def test_nothing_is_lost_without_nothing_and_the_network_stays():
    own = network()
    parts = describe_separable(own.model, own.example, "expanded")
    before = {name: value.clone() for name, value in own.model.state_dict().items()}
    found = reading_errors(parts.structure, parts.sites, pixels(8), (0.0, 0.25))
    assert all(values[0] == 0 < values[1] for values in found.values())
    assert all(torch.equal(value, before[name]) for name, value in own.model.state_dict().items())

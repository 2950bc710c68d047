import itertools

import pytest
import torch

from convnet.networks import EXAMPLE, NETWORKS, made
from secateur.convnet.costs import costs
from secateur.convnet.structure import describe_channels
from secateur.core.budget import Budget
from secateur.core.errors import RatioError
from secateur.images.widths import choose_widths, global_widths, knapsack_widths, uniform_widths


def scores_of(structure, seed=0):
    stream = torch.Generator().manual_seed(seed)
    return {site.name: torch.rand(site.count, generator=stream) for site in structure.sites}


@pytest.mark.parametrize("multiple", [1, 2])
@pytest.mark.parametrize("widths", [uniform_widths, global_widths, knapsack_widths])
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_cut_never_costs_more_than_the_budget_and_nothing_more_would_fit(kind, widths, multiple):
    structure = describe_channels(made(kind), EXAMPLE)
    scores = scores_of(structure)
    for unit, share in itertools.product(("macs", "params", "bytes"), (0.9, 0.7, 0.6)):
        limit = Budget(share, unit)
        try:
            chosen = widths(structure, unit) if widths is knapsack_widths else widths
            cut = choose_widths(structure, scores, limit, chosen, multiple=multiple, least=0.05)
        except RatioError:
            smallest = {site.name: min(site.count, multiple) for site in structure.sites}
            assert getattr(costs(structure, smallest), unit) > share * getattr(costs(structure), unit)
            continue
        kept = {name: len(units) for name, units in cut.kept.items()}
        assert getattr(costs(structure, kept), unit) <= share * getattr(costs(structure), unit)
        assert all(count % multiple == 0 or count >= 1 for count in kept.values())
        for name, units in cut.kept.items():  # the best of each site stay
            others = scores[name][[u for u in range(len(scores[name])) if u not in units]]
            assert scores[name][list(units)].min() >= others.max()


def test_nothing_is_removed_where_the_budget_is_met_already():
    structure = describe_channels(made("Residual"), EXAMPLE)
    assert not choose_widths(structure, scores_of(structure), Budget(1.0, "macs"), uniform_widths).kept
    assert not choose_widths(structure, scores_of(structure), Budget(1e9, "macs"), global_widths).kept


def test_uniform_is_the_same_share_and_global_follows_the_scores():
    scores = {"a": torch.tensor([1.0, 1.0, 1.0, 1.0]), "b": torch.tensor([0.1, 0.1, 1.9, 1.9])}
    assert uniform_widths(scores, 0.25) == {"a": 3.0, "b": 3.0}
    assert global_widths(scores, 0.25) == {"a": 4.0, "b": 2.0}


def test_a_budget_out_of_reach_is_refused_with_what_can_be_reached():
    structure = describe_channels(made("Residual"), EXAMPLE)
    with pytest.raises(RatioError, match="out of reach: the network has"):
        choose_widths(structure, scores_of(structure), Budget(0.001, "macs"), uniform_widths)


def test_of_equal_scores_the_earlier_stay():
    structure = describe_channels(made("Plain"), EXAMPLE)
    flat = {site.name: torch.ones(site.count) for site in structure.sites}
    cut = choose_widths(structure, flat, Budget(0.5, "macs"), uniform_widths)
    assert all(units == tuple(range(len(units))) for units in cut.kept.values())


def test_a_knapsack_loses_least_for_what_it_saves():
    """With every channel's price known, no other choice of channels saves as much and has a lower score."""
    structure = describe_channels(made("Residual"), EXAMPLE)
    scores = scores_of(structure, 3)
    dense = costs(structure).macs
    prices = {site.name: dense - costs(structure, {site.name: site.count - 1}).macs for site in structure.sites}
    kept = knapsack_widths(structure, "macs")(scores, 0.4)
    every = sorted((float(value) / prices[name], name) for name, own in scores.items() for value in own)
    saved, budget, gone = 0, 0.4 * sum(prices[name] for _, name in every), dict.fromkeys(scores, 0)
    for _, name in every:
        if saved + prices[name] > budget:
            break
        saved, gone[name] = saved + prices[name], gone[name] + 1
    assert kept == {name: len(own) - gone[name] for name, own in scores.items()}
    assert knapsack_widths(structure, "macs")(scores, 0.0) == {name: len(own) for name, own in scores.items()}

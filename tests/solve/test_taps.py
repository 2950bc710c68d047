import itertools

import pytest
import torch

from secateur.core.errors import InputError
from secateur.solve.taps import eliminate_taps, refit_taps, share_taps, smallest_taps


def drawn(channels, taps, seed=0):
    stream = torch.Generator().manual_seed(seed)
    weight = torch.randn(channels, taps, generator=stream)
    x = torch.randn(channels, taps, 3 * taps, generator=stream)
    x = x + x.roll(1, dims=1)  # neighbours are alike, as in pictures
    return weight, x @ x.transpose(1, 2) / x.shape[2]


def error(weight, other, gram):
    difference = (weight - other).double()
    return torch.einsum("ct,ctu,cu->c", difference, gram.double(), difference)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 1.0])
def test_the_smallest_go_and_tiles_are_balanced(ratio):
    weight = drawn(72, 9)[0].abs()
    keep = smallest_taps(weight, ratio)
    assert int((~keep).sum()) == round(ratio * 648)
    if 0 < ratio < 1:
        assert weight[keep].min() >= weight[~keep].max()
    balanced = smallest_taps(weight, ratio, tile=32)
    gone = [int((~part).sum()) for part in balanced.split(32)]
    assert gone == [round(ratio * size) for size in (288, 288, 72)]


def test_ties_and_ratios_out_of_range():
    assert smallest_taps(torch.ones(2, 4), 0.5).tolist() == [[True] * 4, [False] * 4]
    with pytest.raises(InputError, match=r"0\.\.1"):
        smallest_taps(torch.ones(2, 4), 1.5)
    with pytest.raises(InputError, match="cannot keep 5"):
        share_taps(torch.ones(2, 4), 5)


@pytest.mark.parametrize("seed", range(40))
def test_shared_taps_keep_no_less_than_channels_as_they_stand_and_often_the_most(seed):
    stream = torch.Generator().manual_seed(seed)
    channels, taps, run = 2 + seed % 4, 3 + seed % 2, 2
    kept = 1 + seed % taps
    scores = torch.rand(channels, taps, generator=stream) ** 3

    def most(order):
        return sum(
            float(scores[list(part)].sum(0).sort(descending=True).values[:kept].sum())
            for part in (order[first : first + run] for first in range(0, channels, run))
        )

    found = share_taps(scores, kept, run)
    assert sorted(found.order.tolist()) == list(range(channels)) and (found.keep.sum(1) == kept).all()
    own = sum(
        float(scores[found.order[first : first + run]][:, found.keep[number]].sum())
        for number, first in enumerate(range(0, channels, run))
    )
    best = max(most(order) for order in itertools.permutations(range(channels)))
    assert most(tuple(range(channels))) - 1e-6 <= own <= best + 1e-6
    assert own >= 0.9 * best


def test_channels_of_two_kinds_are_told_apart():
    scores = torch.full((64, 9), 0.01)
    scores[::2, :4], scores[1::2, 5:] = 1.0, 1.0
    found = share_taps(scores, 4)
    runs = found.order.reshape(4, 16) % 2
    assert (runs == runs[:, :1]).all() and float(scores[found.order].reshape(4, 16, 9).sum(1)[found.keep].sum()) == 256


@pytest.mark.parametrize("seed", range(20))
def test_what_stays_is_solved_by_least_squares(seed):
    weight, gram = drawn(7, 9, seed)
    keep = torch.rand(7, 9, generator=torch.Generator().manual_seed(seed)) < 0.6
    keep[0], keep[1] = True, False
    found = refit_taps(weight, gram, keep, damp=0.0)
    assert torch.equal(found[0], weight[0]) and not found[~keep].any()
    for channel in range(7):
        own = keep[channel]
        h = gram[channel].double()
        expected = torch.linalg.solve(h[own][:, own], h[own] @ weight[channel].double())
        assert torch.allclose(found[channel, own].double(), expected.double(), atol=1e-4)
    assert (error(weight, found, gram) <= error(weight, weight * keep, gram) + 1e-6).all()


@pytest.mark.parametrize("seed", range(20))
def test_one_tap_goes_where_brute_force_loses_least(seed):
    weight, gram = drawn(5, 4, seed)
    keep = eliminate_taps(weight, gram, 3, run=5, damp=0.0)
    losses = []
    for tap in range(4):
        mask = torch.ones(5, 4, dtype=torch.bool)
        mask[:, tap] = False
        losses.append(float(error(weight, refit_taps(weight, gram, mask, damp=0.0), gram).sum()))
    assert int((~keep[0]).nonzero()) == losses.index(min(losses))


def test_elimination_of_nothing_of_everything_and_of_dead_inputs():
    weight, gram = drawn(20, 9)
    assert eliminate_taps(weight, gram, 9).all() and not eliminate_taps(weight, gram, 0).any()
    gram[3] = 0
    weight[4] = 0
    keep = eliminate_taps(weight, gram, 4)
    assert keep.shape == (2, 9) and (keep.sum(1) == 4).all()
    every = keep.repeat_interleave(16, 0)[:20]
    found = refit_taps(weight, gram, every)
    assert found.isfinite().all() and torch.allclose(found[3], weight[3] * every[3]) and not found[4].any()


def test_elimination_beats_the_smallest_weights():
    weight, gram = drawn(64, 25, 3)
    chosen = eliminate_taps(weight, gram, 12).repeat_interleave(16, 0)
    plain = share_taps(weight.square(), 12, 16)
    naive = torch.zeros(64, 25, dtype=torch.bool)
    sums = weight.square().reshape(4, 16, 25).sum(1)
    naive_runs = torch.zeros(4, 25, dtype=torch.bool).scatter_(1, sums.argsort(dim=1, descending=True)[:, :12], True)
    naive = naive_runs.repeat_interleave(16, 0)
    assert plain.keep.shape == (4, 25)
    ours, theirs = (float(error(weight, refit_taps(weight, gram, keep), gram).sum()) for keep in (chosen, naive))
    assert ours < theirs

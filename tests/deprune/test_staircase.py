import itertools
import random

import pytest

from secateur.core.errors import RatioError
from secateur.deprune.staircase import Choice, align_halves, cheapest_loss


def brute(layers, limit):
    best = None
    for places in itertools.product(*(range(len(own)) for own in layers)):
        cost = sum(own[place].cost for own, place in zip(layers, places, strict=True))
        loss = sum(own[place].loss for own, place in zip(layers, places, strict=True))
        if cost <= limit * (1 + 1e-9) and (best is None or loss < best - 1e-12):
            best = loss
    return best


@pytest.mark.parametrize("seed", range(300))
def test_the_knapsack_is_what_brute_force_finds(seed):
    draw = random.Random(seed)
    whole = draw.random() < 0.3  # ties, and limits that are met to the bit
    number = (lambda: float(draw.randint(0, 3))) if whole else (lambda: draw.random() * 10 ** draw.randint(-4, 2))
    layers = [[Choice(number(), number()) for _ in range(draw.randint(1, 4))] for _ in range(draw.randint(1, 4))]
    low = sum(min(choice.cost for choice in own) for own in layers)
    high = sum(max(choice.cost for choice in own) for own in layers)
    limit = draw.choice([low, high, low + (high - low) * draw.random(), float(round(low + (high - low) / 2))])
    expected = brute(layers, limit)
    if expected is None:
        with pytest.raises(RatioError, match="out of reach"):
            cheapest_loss(layers, limit)
        return
    chosen = cheapest_loss(layers, limit)
    cost = sum(own[place].cost for own, place in zip(layers, chosen, strict=True))
    loss = sum(own[place].loss for own, place in zip(layers, chosen, strict=True))
    assert cost <= limit * (1 + 1e-9)
    assert loss == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_no_layers_need_no_choice():
    assert cheapest_loss([], 1.0) == []


def test_halves_round_to_the_step_and_never_beyond_a_layer():
    assert align_halves([33, 33, 40, 40, 64], [288] * 5, [5.0, 1.0, 5.0, 1.0, 1.0]) == [32, 32, 64, 64, 64]
    assert align_halves([33], [288], [1.0]) == [64]
    assert align_halves([20, 20], [25, 25], [1.0, 2.0]) == [25, 0]
    assert align_halves([25], [25], [1.0]) == [25]
    assert align_halves([], [], []) == []

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


@pytest.mark.parametrize("seed", range(200))
def test_the_knapsack_is_exact_where_losses_differ_by_twelve_powers_of_ten(seed):
    draw = random.Random(seed)
    layers = [[Choice(draw.random(), 10 ** draw.uniform(-9, 3)) for _ in range(4)] for _ in range(4)]
    limit = sum(draw.choice(own).cost for own in layers)
    chosen = cheapest_loss(layers, limit)
    loss = sum(own[place].loss for own, place in zip(layers, chosen, strict=True))
    assert loss == pytest.approx(brute_to_the_bit(layers, limit), rel=1e-9)


def brute_to_the_bit(layers, limit):
    plans = itertools.product(*layers)
    return min(sum(one.loss for one in plan) for plan in plans if sum(one.cost for one in plan) <= limit * (1 + 1e-9))


@pytest.mark.parametrize("seed", range(200))
def test_halves_keep_no_more_than_was_asked_and_a_step_of_every_layer(seed):
    draw = random.Random(seed)
    whole = [draw.choice([32, 288, 800, 1568]) for _ in range(draw.randint(1, 8))]
    kept = [draw.randint(1, size) for size in whole]
    aligned = align_halves(kept, whole, [draw.random() for _ in whole])
    assert all(32 <= own <= size and own % 32 == 0 for own, size in zip(aligned, whole, strict=True))
    assert sum(aligned) <= max(sum(kept), 32 * len(whole))


def test_no_layers_need_no_choice():
    assert cheapest_loss([], 1.0) == []


def test_halves_round_to_the_step_and_never_beyond_a_layer():
    assert align_halves([33, 33, 40, 40, 64], [288] * 5, [5.0, 1.0, 5.0, 1.0, 1.0]) == [32, 32, 32, 32, 64]
    assert align_halves([40, 40, 50, 50], [288] * 4, [5.0, 5.0, 1.0, 1.0]) == [32, 32, 32, 64]
    assert align_halves([40, 40, 56, 56], [288] * 4, [5.0, 5.0, 1.0, 1.0]) == [32, 32, 64, 64]
    assert align_halves([33], [288], [1.0]) == [32]  # 64 would be more than was kept
    assert align_halves([20, 20], [25, 25], [1.0, 2.0]) == [25, 25]  # no layer is left without columns
    assert align_halves([43] * 5, [288] * 5, [5.03, 1.77, 7.35, 7.0, 3.86]) == [32, 64, 32, 32, 32]
    assert align_halves([29] * 4, [288] * 4, [1.0] * 4) == [32] * 4
    assert align_halves([1, 64, 96], [288] * 3, [1.0, 2.0, 3.0]) == [32, 64, 64]
    assert align_halves([25], [25], [1.0]) == [25]
    assert align_halves([], [], []) == []

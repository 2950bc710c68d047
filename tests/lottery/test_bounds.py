import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from secateur.lottery.bounds import batch_size, interval_chances, least, malach_size, once_size, pool_size
from secateur.lottery.distributions import Hyperbolic
from secateur.lottery.golden import GOLDEN


@given(st.integers(1, 60))
def test_chances_are_between_half_and_whole_of_their_share_and_make_three_quarters(count):
    chances = interval_chances(count)
    assert (chances >= 1 / (2 * count) - 1e-12).all() and (chances <= 1 / count + 1e-12).all()
    assert chances.sum() == pytest.approx(0.75) and chances == pytest.approx(chances[::-1])


@pytest.mark.parametrize("base", [1.5, GOLDEN])
def test_chances_are_those_of_products_of_hyperbolic_weights(base):
    law, draws = Hyperbolic(largest=2.0, intervals=12, base=base), 400_000
    rng = np.random.default_rng(0)
    products = law.sizes(rng.random(draws)) * law.sizes(rng.random(draws))
    ends = 2.0 * base ** -np.arange(13, 0, -1.0)
    counts = np.histogram(products, ends)[0][::-1]
    for count, chance in zip(counts, interval_chances(12), strict=True):
        assert binomtest(int(count), draws, chance).pvalue > 1e-4


@pytest.mark.parametrize("delta", [0.3, 0.05])
def test_a_pool_fills_its_kinds_as_often_as_promised(delta):
    misses = 1 - interval_chances(9) / 4
    pool, copies, runs = pool_size(misses, 5, delta), 5, 500
    rng = np.random.default_rng(1)
    chances = np.append(1 - misses, misses.sum() - 8)  # the kinds, and none of them
    counts = rng.multinomial(pool, chances, size=(runs, copies))[..., :-1]
    failed = int((counts == 0).any(axis=(1, 2)).sum())
    assert binomtest(failed, runs, delta, alternative="greater").pvalue > 1e-3
    assert failed > 0.4 * delta * runs  # no looser than the union bound has to be


@pytest.mark.parametrize("delta", [0.3, 0.05])
def test_one_pool_handed_on_is_enough_as_often_as_promised_and_smaller(delta):
    misses, outputs, runs = 1 - interval_chances(9) / 4, np.array([5] * 20 + [2] * 20), 500
    whole = batch_size(misses, outputs, delta)
    chances = np.append(1 - misses, misses.sum() - 8)
    rng = np.random.default_rng(2)
    # how long one output waits for all kinds: the latest first draw of any kind, kinds drawn without order
    waits = np.zeros((runs, 40))
    for number, count in enumerate(outputs):
        kinds = rng.choice(10, p=chances, size=(runs, int(count), 1200)).astype(np.int8)
        first = np.stack([(kinds == kind).argmax(axis=2) for kind in range(9)])
        assert all((kinds == kind).any(axis=2).all() for kind in range(9))
        waits[:, number] = first.max(axis=(0, 2)) + 1
    failed = int((waits.sum(1) > whole).sum())
    assert binomtest(failed, runs, delta, alternative="greater").pvalue > 1e-3
    assert np.median(waits.sum(1)) > 0.7 * whole  # not a wild promise
    assert whole < 40 * pool_size(misses, int(outputs.sum()), delta)


def test_nothing_to_fill_needs_nothing():
    assert pool_size(np.zeros(0), 5, 0.1) == pool_size(np.array([0.5]), 0, 0.1) == 0
    assert batch_size(np.zeros(0), np.array([3]), 0.1) == batch_size(np.array([0.5]), np.array([0]), 0.1) == 0


@given(st.integers(1, 200), st.floats(0.01, 0.5), st.floats(0.001, 0.9))
def test_the_least_is_the_least(copies, chance, delta):
    misses = np.array([1 - chance, 1 - chance / 2])
    pool = pool_size(misses, copies, delta)
    assert copies * (misses**pool).sum() <= delta
    assert pool == 1 or copies * (misses ** (pool - 1)).sum() > delta
    once = once_size(chance, 3, copies, delta)
    assert 3 * binom.cdf(copies - 1, once, chance) <= delta < 3 * binom.cdf(copies - 1, once - 1, chance)
    assert least(lambda count: count >= copies) == copies


def test_one_pair_a_weight_takes_the_square_of_the_accuracy():
    assert malach_size(1e-3, 100, 0.05) / malach_size(1e-2, 100, 0.05) == pytest.approx(100, rel=0.01)
    rng, accuracy = np.random.default_rng(0), 0.3
    u, v = rng.uniform(-1, 1, (2, 1_000_000))
    met = (u >= 1 - accuracy / 2) & (abs(v - 0.5) <= accuracy / 2)
    assert met.mean() == pytest.approx(accuracy**2 / 8, rel=0.05)
    assert (abs(u * v - 0.5)[met] <= accuracy).all()


@given(st.integers(1, 30), st.floats(0.01, 0.4), st.floats(1e-6, 0.5))
def test_sizes_grow_as_delta_falls(copies, chance, delta):
    misses, outputs = np.array([1 - chance]), np.full(7, copies)
    assert pool_size(misses, copies, delta / 2) >= pool_size(misses, copies, delta)
    assert batch_size(misses, outputs, delta / 2) >= batch_size(misses, outputs, delta)

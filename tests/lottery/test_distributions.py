import numpy as np
import pytest
from scipy.stats import binomtest, kstest

from secateur.core.errors import InputError
from secateur.lottery.distributions import Distribution, Hyperbolic, Places, Uniform, best_round, measured_miss
from secateur.lottery.golden import GOLDEN
from secateur.lottery.random_weights import streams

HYPERBOLIC = Hyperbolic(largest=2.0, intervals=10, base=GOLDEN)
UNIFORM = Uniform(largest=2.0, accuracy=0.01, neurons=40, miss=0.1)
WEIGHTS = np.array([1.9, -0.3, 0.0, 0.07, -2.0])


def products(law, chosen, places, into, out):
    """u and u v of every chosen neuron, by plain loops: (side, output) -> list."""
    found = {}
    for side, output, slot in np.argwhere(chosen.neurons >= 0):
        neuron = np.array([chosen.neurons[side, output, slot]])
        u, sign = into.draws(neuron, np.array([places.input]))
        v, other = out.draws(neuron, np.array([output]))
        u, v = float((law.sizes(u) * sign)[0]), float((law.sizes(v) * other)[0])
        found.setdefault((int(side), int(output)), []).append((u, u * v))
    return found


@pytest.mark.parametrize("law", [HYPERBOLIC, UNIFORM])
@pytest.mark.parametrize("sides", [1, 2])
def test_chosen_products_add_up_to_the_weights_on_either_side_of_zero(law, sides):
    into, out = streams(3, 0, (7, len(WEIGHTS)))
    places = Places(4, np.full(len(WEIGHTS), 100, dtype=np.int64), 6000, sides)
    chosen = law.choose(into, out, WEIGHTS, places)
    assert chosen.missing == 0 and isinstance(law, Distribution)
    found, accuracy = products(law, chosen, places, into, out), 2.0 * GOLDEN**-10
    for side in range(sides):
        for output, weight in enumerate(WEIGHTS):
            pairs = found.get((side, output), [])
            assert abs(sum(product for _, product in pairs) - weight) <= (accuracy if law is HYPERBOLIC else 0.01) * (
                1 + 1e-9
            )
            assert all((u > 0) == (side == 0) for u, _ in pairs)
            assert (weight == 0) == (not pairs)


def test_reach_is_how_far_one_had_to_look():
    into, out = streams(3, 0, (7, len(WEIGHTS)))
    starts = np.array([100, 200, 300, 400, 500])
    for law in (HYPERBOLIC, UNIFORM):
        whole = law.choose(into, out, WEIGHTS, Places(4, starts, 6000, 2))
        assert whole.reach[2] == 0 and (whole.reach[[0, 1, 3, 4]] > 0).all()
        assert (whole.neurons < (starts + whole.reach)[None, :, None]).all()
        just = law.choose(into, out, WEIGHTS, Places(4, starts, int(whole.reach.max()), 2))
        assert just.missing == 0 and (just.neurons == whole.neurons).all()
        short = law.choose(into, out, WEIGHTS, Places(4, starts, int(whole.reach.max()) - 1, 2))
        assert short.missing > 0


def test_an_empty_interval_is_counted_and_passed_over():
    into, out = streams(0, 0, (1, 1))
    chosen = HYPERBOLIC.choose(into, out, np.array([1.0]), Places(0, np.zeros(1, dtype=np.int64), 30, 1))
    assert 0 < chosen.missing < 10 and chosen.reach[0] == 30
    found = products(HYPERBOLIC, chosen, Places(0, np.zeros(1, dtype=np.int64), 30, 1), into, out)
    assert sum(product for _, product in found.get((0, 0), [])) <= 1.0


def test_first_hits_are_those_of_plain_loops():
    into, out = streams(5, 0, (3, 2))
    places = Places(1, np.array([0, 50]), 4000, 2)
    chosen = HYPERBOLIC.choose(into, out, np.array([2.0, -1.5]), places)
    for output, sign in enumerate((1, -1)):
        for side in range(2):
            rest, first = (2.0, 1.5)[output], {}
            for neuron in range(places.starts[output], places.starts[output] + 4000):
                u, left = (float(one[0]) for one in into.draws(np.array([neuron]), np.array([1])))
                v, right = (float(one[0]) for one in out.draws(np.array([neuron]), np.array([output])))
                value = float(HYPERBOLIC.sizes(np.array([u]))[0] * HYPERBOLIC.sizes(np.array([v]))[0])
                number = int(np.floor(-np.log(value / 2.0) / np.log(GOLDEN)))
                if (left > 0) == (side == 0) and left * right == sign and 1 <= number <= 10:
                    first.setdefault(number, (neuron, value))
            wanted = []
            for number in range(1, 11):
                neuron, value = first[number]
                if value <= rest:
                    rest -= value
                    wanted.append(neuron)
            assert sorted(wanted) == sorted(chosen.neurons[side, output][chosen.neurons[side, output] >= 0].tolist())


def test_hyperbolic_weights_are_log_uniform_and_uniform_ones_uniform():
    fractions = streams(1, 0, (1, 1))[0].draws(np.arange(20_000), np.zeros(20_000, dtype=np.int64))[0]
    low, high = HYPERBOLIC.ends
    logs = np.log(HYPERBOLIC.sizes(fractions))
    assert kstest(logs, "uniform", args=(low, high - low)).pvalue > 1e-3
    assert kstest(np.exp(logs), "uniform", args=(0, np.exp(high))).pvalue < 1e-9
    assert kstest(UNIFORM.sizes(fractions), "uniform", args=(0, 2.0)).pvalue > 1e-3


def test_a_larger_network_scales_the_law():
    """Weights c times as large come from single weights sqrt(c) times as large: the choice is the same."""
    into, out = streams(3, 0, (7, len(WEIGHTS)))
    places = Places(4, np.full(len(WEIGHTS), 0, dtype=np.int64), 6000, 2)
    first = HYPERBOLIC.choose(into, out, WEIGHTS, places)
    second = Hyperbolic(largest=8.0, intervals=10, base=GOLDEN).choose(into, out, 4 * WEIGHTS, places)
    assert (first.neurons == second.neurons).all()


@pytest.mark.parametrize("accuracy", [0.1, 0.003])
def test_a_measured_miss_covers_the_true_one(accuracy):
    neurons = 24
    promised = measured_miss(neurons, accuracy, 1000)
    into, out = streams(99, 5, (1, 4000))
    law = Uniform(largest=1.0, accuracy=accuracy, neurons=neurons, miss=1.0)
    starts = np.arange(4000, dtype=np.int64) * neurons
    for weight in (1.0, 0.5, -1.0):  # 1 is the far end: others are missed no more often
        missed = law.choose(into, out, np.full(4000, weight), Places(0, starts, neurons, 1)).missing
        assert binomtest(missed, 4000, promised, alternative="greater").pvalue > 1e-3


def test_an_accuracy_beyond_forty_numbers_is_refused():
    with pytest.raises(InputError, match="law 'uniform' cannot be right to 1.0e-11 of the largest weight"):
        best_round(1e-11, 1e-6)


def test_the_best_round_is_long_enough_and_misses_rarely():
    coarse, fine = best_round(0.1, 1e-6), best_round(1e-4, 1e-6)
    assert coarse.neurons < fine.neurons and max(coarse.miss, fine.miss) < 0.3
    assert best_round(0.1, 1e-6) == coarse

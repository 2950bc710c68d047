import numpy as np
import pytest
from scipy.stats import binomtest

from secateur.core.errors import InputError
from secateur.lottery.log_pruning import find_ticket
from secateur.lottery.plan import Lottery, plan_target
from secateur.lottery.target import Target

RNG = np.random.default_rng(1)
TARGET = Target(
    (RNG.normal(size=(6, 3)), RNG.normal(size=(5, 6)), RNG.normal(size=(2, 5))),
    (RNG.normal(size=6), np.zeros(5), RNG.normal(size=2)),
)
ASKED = [(law, sampling) for law in ("hyperbolic", "uniform") for sampling in ("per-weight", "per-input", "batch")]


@pytest.mark.parametrize(("law", "sampling"), ASKED)
def test_every_weight_is_within_its_accuracy_on_both_sides_of_zero(law, sampling):
    plan = plan_target(TARGET, Lottery(law=law, sampling=sampling, eps=0.1, delta=1e-3))
    ticket = find_ticket(TARGET, plan, 5)
    assert ticket.missing == (0, 0, 0)
    for number, layer in enumerate(plan.layers):
        matrix = np.column_stack([TARGET.weights[number], TARGET.biases[number]])
        for side, slopes in enumerate(ticket.slopes(number)):
            known = slice(None) if side == 0 else slice(-1)  # the constant is never negative
            assert (np.abs(slopes - matrix)[:, known] <= layer.accuracy * (1 + 1e-9)).all()
            if law == "hyperbolic":  # never too large
                assert (np.abs(slopes) <= np.abs(matrix) + 1e-12)[:, known].all()


@pytest.mark.parametrize(("law", "sampling"), ASKED)
def test_each_kept_neuron_keeps_one_input_and_stands_in_the_promised_width(law, sampling):
    plan = plan_target(TARGET, Lottery(law=law, sampling=sampling, eps=0.1, delta=1e-3))
    ticket = find_ticket(TARGET, plan, 5)
    for mask, layer, reached in zip(ticket.masks, plan.layers, ticket.reached, strict=True):
        assert len(np.unique(mask.neurons)) == len(mask.neurons) == len(mask.sources) == len(mask.starts) - 1
        assert 0 <= mask.neurons.min() and mask.neurons.max() < layer.width and reached <= layer.width
        assert (np.diff(mask.starts) > 0).all() and mask.starts[-1] == len(mask.outputs)
        if sampling == "per-weight":
            assert (np.diff(mask.starts) == 1).all()  # a neuron of one weight
        if sampling == "per-input":
            assert (np.diff(mask.neurons // layer.pool) >= 0).all()


def test_the_same_seed_is_the_same_mask_and_another_is_another():
    plan = plan_target(TARGET, Lottery(eps=0.1))
    first, again, other = (find_ticket(TARGET, plan, seed) for seed in (1, 1, 2))
    for one, two in zip(first.masks, again.masks, strict=True):
        assert all((left == right).all() for left, right in zip(one, two, strict=True))
    assert not np.array_equal(first.masks[0].neurons, other.masks[0].neurons)


def test_weights_of_zero_keep_no_edge():
    sparse = Target((np.where(TARGET.weights[0] > 0.3, TARGET.weights[0], 0.0), *TARGET.weights[1:]), TARGET.biases)
    ticket = find_ticket(sparse, plan_target(sparse, Lottery(eps=0.1)), 0)
    for slopes in ticket.slopes(0):
        assert ((slopes[:, :-1] == 0) == (sparse.weights[0] == 0)).all()


@pytest.mark.parametrize("sampling", ["per-input", "batch"])
def test_failures_are_no_more_than_promised(sampling):
    delta, seeds = 0.3, 200
    small = Target((TARGET.weights[0],), (TARGET.biases[0],))
    plan = plan_target(small, Lottery(eps=0.1, delta=delta, sampling=sampling))
    failed = sum(any(find_ticket(small, plan, seed).missing) for seed in range(seeds))
    assert binomtest(failed, seeds, delta, alternative="greater").pvalue > 1e-3
    if sampling == "per-input":
        assert failed > 0  # and are told when they come


@pytest.mark.parametrize("sampling", ["per-weight", "per-input", "batch"])
def test_a_network_too_narrow_is_not_made_wider(sampling):
    plan = plan_target(TARGET, Lottery(eps=0.1, sampling=sampling))
    narrow = plan._replace(
        layers=tuple(layer._replace(pool=layer.pool // 3, width=layer.width // 3) for layer in plan.layers)
    )
    ticket = find_ticket(TARGET, narrow, 0)
    assert sum(ticket.missing) > 0
    for mask, layer, reached in zip(ticket.masks, narrow.layers, ticket.reached, strict=True):
        assert mask.neurons.max() < layer.width and reached <= layer.width


def test_weights_just_above_the_accuracy_are_not_dropped():
    weight = TARGET.weights[0].copy()
    weight[:, 0] = 0.002
    target = Target((weight,), (np.zeros(6),))
    plan = plan_target(target, Lottery(eps=0.006, delta=1e-3))
    assert 0.0007 < plan.layers[0].accuracy < 0.002
    slopes = next(find_ticket(target, plan).slopes(0))
    assert (np.abs(slopes[:, :-1] - weight) <= plan.layers[0].accuracy).all() and (slopes[:, 0] > 0).all()


def test_progress_counts_inputs_and_other_sizes_are_refused():
    seen = []
    plan = plan_target(TARGET, Lottery(eps=0.1))
    find_ticket(TARGET, plan, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 17) for done in range(1, 18)]
    with pytest.raises(InputError, match="other sizes than the target's, \\[3, 6\\]"):
        find_ticket(Target(TARGET.weights[:1], TARGET.biases[:1]), plan)

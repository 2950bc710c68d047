import numpy as np
import pytest

from secateur.lottery.certificate import certify, worst_found
from secateur.lottery.error_budget import NORMS
from secateur.lottery.log_pruning import find_ticket
from secateur.lottery.plan import Lottery, plan_target
from secateur.lottery.target import Target

RNG = np.random.default_rng(4)
FLAT = Target((RNG.normal(size=(8, 2)), RNG.normal(size=(3, 8))), (RNG.normal(size=8), RNG.normal(size=3)))


def drawn(target, **settings):
    lottery = Lottery(**settings)
    return find_ticket(target, plan_target(target, lottery), 0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("law", ["hyperbolic", "uniform"])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("eps", [0.3, 0.01])
def test_the_bound_is_above_all_errors_and_below_what_was_asked(norm, law, signed, eps):
    ticket = drawn(FLAT, eps=eps, norm=norm, law=law, signed=signed, radius=1.5)
    found = certify(FLAT, ticket)
    assert found.missing == 0 and found.holds and found.rounding < 1e-12
    side = np.linspace(0.0 if not signed else -1.5, 1.5, 401)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    grid = grid[NORMS[norm].vectors(grid) <= 1.5]
    errors = NORMS[norm].vectors(FLAT(grid) - ticket.product()(grid))
    assert errors.max() <= found.bound <= eps
    assert 0.99 * errors.max() <= found.found <= found.bound  # gradient ascent finds what a fine grid finds


def test_errors_outside_the_ball_do_not_count():
    wide, narrow = (drawn(FLAT, eps=0.1, radius=radius) for radius in (10.0, 1.0))
    assert certify(FLAT, wide).found > 0 and certify(FLAT, narrow).holds
    far = 100 * np.eye(2)
    assert np.linalg.norm(FLAT(far) - narrow.product()(far), axis=1).max() > certify(FLAT, narrow).bound


def test_what_is_missing_is_told_and_the_bound_grows_with_it():
    ticket = drawn(FLAT, eps=0.01, sampling="per-input")
    short = ticket.plan._replace(layers=tuple(layer._replace(pool=layer.pool // 20) for layer in ticket.plan.layers))
    broken = find_ticket(FLAT, short, 0)
    found, whole = certify(FLAT, broken), certify(FLAT, ticket)
    assert found.missing == sum(broken.missing) > 0 and found.bound > whole.bound and found.found <= found.bound


def test_a_perfect_copy_has_no_error():
    ticket = drawn(FLAT, eps=0.1)
    assert worst_found(ticket.product(), ticket.product(), ticket) == 0.0


def test_the_bound_covers_the_side_that_is_wrong():
    """Without the neurons of negative inputs those inputs give nothing: the bound is at least their whole weight."""
    flat = Target((np.diag([3.0, 2.0]),), (np.zeros(2),))
    ticket = drawn(flat, eps=0.01)
    mask, (inward, _) = ticket.masks[0], ticket.weights(0)
    counts = np.diff(mask.starts)
    kept = inward > 0
    starts = np.concatenate([[0], np.cumsum(counts[kept])])
    half = mask._replace(
        neurons=mask.neurons[kept],
        sources=mask.sources[kept],
        starts=starts,
        outputs=mask.outputs[np.repeat(kept, counts)],
    )
    found = certify(flat, ticket._replace(masks=(half,)))
    assert found.found == pytest.approx(3.0, rel=0.01) and found.found <= found.bound <= 3.1 and not found.holds


def test_the_bound_grows_with_the_ball():
    flat = Target((np.diag([3.0, 2.0]),), (np.zeros(2),))
    one = drawn(flat, eps=0.01)
    lottery = Lottery(eps=0.01, radius=5.0)
    five = one._replace(plan=one.plan._replace(lottery=lottery))
    assert certify(flat, five).bound == pytest.approx(5 * certify(flat, one).bound)
    assert certify(flat, five).found == pytest.approx(5 * certify(flat, one).found, rel=0.01)

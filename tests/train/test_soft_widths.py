import itertools

import pytest
import torch

from convnet.networks import EXAMPLE, NETWORKS, made
from secateur.convnet.costs import costs
from secateur.convnet.structure import describe_channels
from secateur.core.errors import RatioError
from secateur.train.soft_widths import SoftWidths, keep_probabilities, width_steps


def masks(kind="Residual", target=0.5, divisor=2, seed=0):
    made_masks = SoftWidths(describe_channels(made(kind, seed), EXAMPLE), target, divisor)
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for own in made_masks.logits:
            own.copy_(torch.randn(own.shape, generator=stream))
    return made_masks


@pytest.mark.parametrize(("count", "divisor"), [(8, 2), (9, 4), (3, 8), (1, 1), (16, 16)])
def test_probabilities_fall_from_one_and_add_up_to_the_expected_width(count, divisor):
    steps = width_steps(count, divisor)
    logits = torch.randn(len(steps), dtype=torch.float64)
    keeps = keep_probabilities(logits, steps)
    assert keeps.shape == (count,) and bool((keeps.diff() <= 1e-12).all())
    assert bool(((keeps >= -1e-12) & (keeps <= 1 + 1e-12)).all()) and abs(float(keeps[0]) - 1) < 1e-12
    assert torch.allclose(keeps.sum(), logits.softmax(0) @ torch.tensor(steps, dtype=torch.float64))
    assert torch.allclose(keep_probabilities(logits + 3, steps), keeps)


def test_gradients_are_those_of_finite_differences():
    steps = width_steps(8, 2)
    logits = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda own: keep_probabilities(own, steps), logits)
    learned = masks()
    widths = {name: torch.tensor(float(s[-1]) - 0.3, dtype=torch.float64) for name, s in learned.steps.items()}
    for name in widths:
        value = widths[name].clone().requires_grad_(True)
        assert torch.autograd.gradcheck(lambda own, name=name: learned._costs.macs({**widths, name: own}), value)


@pytest.mark.parametrize("kind", NETWORKS)
def test_multiply_accumulates_are_those_of_costs(kind):
    learned = masks(kind, target=1.0, divisor=1)
    for share in (0.3, 0.7, 1.0):
        widths = {name: max(1, int(share * site.count)) for name, site in learned.sites.items()}
        assert learned.macs(widths) == costs(learned.structure, widths).macs
    assert float(learned.share().detach()) == pytest.approx(learned.macs(learned.widths()) / learned.dense)


def test_hard_widths_are_rounded_up_and_pass_the_gradient_on():
    learned = masks()
    for name, width in learned.widths().items():
        assert width in learned.steps[name] and width >= float(learned.expected()[name].detach()) - 1e-4
    slopes = torch.autograd.grad(learned.share(), list(learned.logits))
    assert all(bool(slope.isfinite().all()) for slope in slopes) and any(bool(slope.any()) for slope in slopes)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["Residual", "Concatenated", "Gated", "Grouped", "Listed"])
def test_fitted_widths_never_cost_more_and_no_step_more_would_fit(kind, seed):
    learned = masks(kind, target=0.55, divisor=1, seed=seed)
    widths, limit = learned.fitted(), 0.55 * learned.dense
    assert learned.macs(widths) <= limit
    for name, width in widths.items():
        wider = learned._next(name, width)
        assert wider == width or learned.macs({**widths, name: wider}) > limit


def test_cuts_keep_the_most_important():
    learned = masks()
    widths = {name: steps[0] for name, steps in learned.steps.items()}
    cut, kept = learned.cut(widths), learned.kept(widths)
    for name, units in cut.kept.items():
        assert kept[name].nonzero().flatten().tolist() == list(units)
        assert set(units) == set(learned.order[name][: widths[name]].tolist())
    assert not learned.cut({name: site.count for name, site in learned.sites.items()}).kept


def test_a_start_near_everything_and_a_target_out_of_reach():
    learned = SoftWidths(describe_channels(made("Residual"), EXAMPLE), 0.5, 2, start=0.99)
    assert learned.widths() == {name: site.count for name, site in learned.sites.items()}
    before = [own.softmax(0) for own in learned.logits]
    learned.centre()
    assert all(torch.allclose(own.softmax(0), old) for own, old in itertools.zip_longest(learned.logits, before))
    with pytest.raises(RatioError, match="out of reach"):
        SoftWidths(describe_channels(made("Residual"), EXAMPLE), 0.01, 4)

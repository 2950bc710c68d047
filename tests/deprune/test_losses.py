import pytest
import torch

from deprune.networks import network, pixels
from secateur.deprune.depthwise import describe_separable
from secateur.deprune.losses import Curve, loss_curves
from secateur.images.repair import Repair


def test_a_curve_passes_through_its_points_and_never_falls():
    curve = Curve((0.25, 0.5, 0.75), (1.0, 0.5, 4.0))
    assert [curve.at(share) for share in (0.0, 0.25, 0.5, 0.75)] == [0.0, 1.0, 1.0, 4.0]
    assert curve.at(0.125) == 0.25 and curve.at(0.625) == 2.5 and curve.at(0.8) == pytest.approx(4.6)
    assert Curve((0.5,), (2.0,)).at(0.25) == 0.5 and Curve((0.5,), (2.0,)).at(1.0) == 8.0


@pytest.mark.parametrize("refit", [False, True])
def test_losses_are_divergences_of_one_thing_pruned_at_a_time(refit):
    own = network()
    before = {name: value.clone() for name, value in own.model.state_dict().items()}
    parts = describe_separable(own.model, own.example, "expanded")
    found = loss_curves(parts, pixels(), Repair(refit=refit))
    assert set(found.channels) == {site.name for site in parts.sites}
    assert set(found.taps) == {kernel.name for kernel in parts.kernels}
    assert all(min(curve.losses) >= 0 and max(curve.losses) > 0 for curve in found.channels.values())
    assert all(torch.equal(value, before[name]) for name, value in own.model.state_dict().items())


def test_refitting_loses_less_and_plain_zeros_are_checked_by_hand():
    own = network()
    parts = describe_separable(own.model, own.example, "expanded")
    plain, solved = (loss_curves(parts, pixels(), Repair(refit=refit)) for refit in (False, True))
    total = [sum(curve.losses[1] for curve in found.channels.values()) for found in (plain, solved)]
    assert total[1] < total[0]
    kernel = parts.kernels[0]
    with torch.no_grad():
        whole = own.model(pixels()).double().log_softmax(1)
        flat = kernel.module.weight.flatten(1)
        flat.scatter_(1, flat.abs().argsort(dim=1)[:, :4], 0.0)
        kernel.module.weight.copy_(flat.view_as(kernel.module.weight))
        less = own.model(pixels()).double().log_softmax(1)
    by_hand = float((whole.exp() * (whole - less)).sum(1).mean())
    assert plain.taps[kernel.name].losses[0] == pytest.approx(by_hand, rel=1e-3)

import pytest
import torch
from torch.nn.functional import cross_entropy

from deprune.networks import network, pixels
from secateur.deprune.depthwise import describe_separable
from secateur.deprune.losses import Curve, Curves, loss_curves
from secateur.deprune.reading import reading_errors


def test_a_curve_passes_through_its_points_and_never_falls():
    curve = Curve((0.25, 0.5, 0.75), (1.0, 0.5, 4.0))
    assert [curve.at(share) for share in (0.0, 0.25, 0.5, 0.75)] == [0.0, 1.0, 1.0, 4.0]
    assert curve.at(0.125) == 0.25 and curve.at(0.625) == 2.5 and curve.at(0.8) == pytest.approx(4.6)
    assert Curve((0.5,), (2.0,)).at(0.25) == 0.5 and Curve((0.5,), (2.0,)).at(1.0) == 8.0


def test_curves_are_levelled_one_kind_at_a_time():
    both = Curves({"site": Curve((0.5, 1.0), (1.0, 3.0))}, {"kernel": Curve((0.5,), (2.0,))})
    moved = both.levelled(2.0, 0.5)
    assert moved.channels["site"] == Curve((0.5, 1.0), (2.0, 6.0)) and moved.taps["kernel"] == Curve((0.5,), (1.0,))


@pytest.mark.parametrize("refit", [False, True])
def test_losses_leave_the_network_as_it_was(refit):
    own = network()
    before = {name: value.clone() for name, value in own.model.state_dict().items()}
    parts = describe_separable(own.model, own.example, "expanded")
    found = loss_curves(parts, pixels(), refit=refit)
    assert set(found.channels) == {site.name for site in parts.sites}
    assert set(found.taps) == {kernel.name for kernel in parts.kernels}
    assert all(min(curve.losses) >= 0 and max(curve.losses) > 0 for curve in found.channels.values())
    assert all(torch.equal(value, before[name]) for name, value in own.model.state_dict().items())


def test_channels_are_estimated_by_what_outputs_and_readers_lose():
    own = network()
    parts = describe_separable(own.model, own.example, "expanded")
    site = parts.sites[0]
    found = loss_curves(parts, pixels()).channels[site.name]
    own.model.eval()
    out = own.model(pixels())
    made = [name for name in site.rows if parts.structure.layers[name].is_matrix]
    weights = [parts.structure.layers[name].module.weight for name in made]
    for weight in weights:
        weight.requires_grad_(True)
    cross_entropy(own.model(pixels()), out.argmax(1)).backward()
    by_hand = torch.zeros(site.count)
    for name, weight in zip(made, weights, strict=True):
        by_hand += (weight * weight.grad).flatten(1).sum(1)[site.rows[name]].sum(1).detach()
    expected = by_hand.abs().sort().values[: site.count // 2].sum()
    errors = reading_errors(parts.structure, [site], pixels(), (0.5, 1.0))[site.name]
    assert found.at(0.5) == pytest.approx((float(expected) * errors[0]) ** 0.5, rel=1e-3)
    assert found.at(1.0) == pytest.approx((float(by_hand.abs().sum()) * errors[1]) ** 0.5, rel=1e-3)


def test_the_divergence_of_zeros_is_checked_by_hand():
    own = network()
    parts = describe_separable(own.model, own.example, "expanded")
    plain, solved = (loss_curves(parts, pixels(), refit=refit) for refit in (False, True))
    total = [sum(curve.losses[0] for curve in found.taps.values()) for found in (plain, solved)]
    assert total[1] < total[0]
    kernel = parts.kernels[0]
    with torch.no_grad():
        whole = own.model(pixels()).double().log_softmax(1)
        flat = kernel.module.weight.flatten(1)
        flat.scatter_(1, flat.abs().argsort(dim=1)[:, : kernel.taps - kernel.kept(0.5)], 0.0)
        kernel.module.weight.copy_(flat.view_as(kernel.module.weight))
        less = own.model(pixels()).double().log_softmax(1)
    by_hand = float((whole.exp() * (whole - less)).sum(1).mean())
    assert plain.taps[kernel.name].losses[0] == pytest.approx(by_hand, rel=1e-3)


def test_curves_of_taps_stand_at_the_shares_that_whole_taps_make():
    own = network()
    parts = describe_separable(own.model, own.example, "expanded")
    found = loss_curves(parts, pixels(), refit=False)
    for kernel in parts.kernels:
        gone = [round(share * kernel.taps, 6) for share in found.taps[kernel.name].shares]
        assert gone == [kernel.taps - kernel.kept(0.5), kernel.taps - kernel.kept(0.25)]

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from convnet.networks import EXAMPLE, NETWORKS, made
from secateur.convnet.costs import costs
from secateur.convnet.structure import describe_channels
from secateur.core.errors import InputError
from secateur.train.s2h import SoftToHard, SoftToHardSettings

CLASSIFIERS = [kind for kind in NETWORKS if kind != "Upsampled"]  # one makes pictures


def data(seed=0, count=6, batch=16):
    """Batches whose class is the brightest of five regions of a picture."""
    stream = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        pixels = torch.rand(batch, 3, 8, 8, generator=stream)
        batches.append((pixels, pixels.flatten(1)[:, :190].reshape(batch, 5, -1).mean(2).argmax(1)))
    return batches


def learner(kind="Residual", steps=12, seed=0, **settings):
    structure = describe_channels(made(kind, seed), EXAMPLE)
    return SoftToHard(
        structure, SoftToHardSettings(**{"divisor": 1, "target": 0.5, "mask_rate": 0.3} | settings), steps
    )


def trained(made_learner, batches):
    loop = made_learner.loop(0.01, 1e-4)
    for batch in batches:
        loop.step(batch)
    return loop


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_the_network_that_is_cut_out_computes_what_the_hard_one_does_within_the_target(kind):
    target = 0.8 if kind in ("Scaled", "Attended", "Multiplied") else 0.5  # most of theirs stays
    learned = learner(kind, target=target)
    dense = costs(learned.structure).macs
    trained(learned, data(count=12))
    learned.cut()
    learned.settle_norms(data(1))
    pixels = data(2, count=1)[0][0]
    with torch.no_grad():
        expected = learned.run(pixels, learned.masks.kept(learned.fixed), "hard")
        cut = learned.finish()
        got = learned.model(pixels)
    assert torch.allclose(got, expected, atol=1e-5, rtol=1e-4)
    macs = sum(
        layer.weight.numel() * learned.structure.positions.get(name, 0)
        for name, layer in learned.structure.layers.items()
        if layer.is_matrix
    )
    assert macs <= target * dense and cut.kept


def slopes(learned, loss):
    weights, logits = list(learned.model.parameters()), list(learned.masks.logits)
    found = torch.autograd.grad(loss, [*weights, *logits], allow_unused=True)
    return found[: len(weights)], found[len(weights) :]


def test_each_divergence_reaches_one_kind_of_parameters_alone():
    learned = learner(mask_rate=0.0)
    pixels, _ = data()[0]
    learned.model.train()
    soft = learned.run(pixels, learned.masks.keeps(), "soft")
    hard = learned.run(pixels, learned.masks.kept(learned.masks.fitted()), "hard")
    term = learned._for_masks(soft, hard.detach())
    weights, logits = slopes(learned, term)
    assert all(slope is None or not slope.any() for slope in weights) and any(slope.any() for slope in logits)
    direct = kl_div(hard.detach().log_softmax(1), soft.log_softmax(1), reduction="batchmean", log_target=True)
    expected = torch.autograd.grad(direct, list(learned.masks.logits), retain_graph=True)
    assert all(torch.allclose(one, other) for one, other in zip(logits, expected, strict=True))
    first = kl_div(hard.log_softmax(1), soft.detach().log_softmax(1), reduction="batchmean", log_target=True)
    weights, logits = slopes(learned, first)
    assert all(slope is None for slope in logits) and any(slope is not None and slope.any() for slope in weights)


def test_without_distillation_the_loss_is_that_of_the_soft_network_and_the_budget():
    learned, batch = learner(distill="none", resource=3.0), data()[0]
    loss = learned(batch, 0)["loss"]
    soft = learned.run(batch[0], learned.masks.keeps(), "soft")
    expected = cross_entropy(soft, batch[1]) + 3 * (learned.masks.share() - 0.5).square()
    assert torch.allclose(loss.double(), expected.double(), atol=1e-5)


def test_where_every_channel_is_kept_all_three_networks_are_one():
    learned = learner("Gated", start=1 - 1e-7)
    pixels = data()[0][0]
    plain = copy.deepcopy(learned.model).train()
    learned.model.train()
    soft = learned.run(pixels, learned.masks.keeps(), "soft")
    hard = learned.run(pixels, learned.masks.kept(learned.masks.widths()), "hard")
    assert torch.allclose(soft, hard, atol=1e-5) and torch.allclose(hard, plain(pixels), atol=1e-5)


def test_statistics_of_the_two_passes_are_kept_apart():
    learned = learner()
    trained(learned, data(count=3))
    one, two = (learned.held[0][kind]["running_mean"] for kind in ("soft", "hard"))
    assert torch.equal(one, two)  # the first norm reads what both passes share
    last = learned.held[-1]
    assert not torch.equal(last["soft"]["running_mean"], last["hard"]["running_mean"])
    assert torch.equal(learned.norms[-1].running_mean, last["hard"]["running_mean"])
    assert int(last["soft"]["num_batches_tracked"]) == 3


@pytest.mark.parametrize("stop", [2, 5, 9])
def test_what_was_stopped_anywhere_goes_on_with_the_same_bits(stop):
    batches = data(count=10)
    straight = learner(steps=10, settled=0.3)
    whole = trained(straight, batches)
    first, second = learner(steps=10, settled=0.3), learner(steps=10, settled=0.3, seed=1)
    begun, going = trained(first, batches[:stop]), second.loop(0.01, 1e-4)
    going.load_state({name: value.clone() for name, value in begun.state().items()}, begun.log)
    for batch in batches[stop:]:
        going.step(batch)
    assert going.losses == whole.losses and second.fixed == straight.fixed
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def test_masks_reach_the_target_and_weights_learn():
    learned = learner("Concatenated", steps=120, mask_rate=0.05)
    loop = trained(learned, data(count=120))
    assert abs(loop.log["share"][-1] - 0.5) < 0.1
    assert sum(loop.losses[-10:]) < sum(loop.losses[:10])


@pytest.mark.parametrize(
    "fields",
    [{"target": 0.0}, {"divisor": 0}, {"distill": "all"}, {"start": 1.0}, {"settled": 1.0}, {"resource": -1.0}],
)
def test_settings_outside_their_range_are_refused(fields):
    with pytest.raises(InputError, match="s2h"):
        SoftToHardSettings(**fields)

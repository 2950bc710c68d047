import math

import pytest
import torch
from torch import nn

from secateur.core.errors import NumericalError
from secateur.train.loop import (
    Batches,
    Cosine,
    Descent,
    Linear,
    Loop,
    Objective,
    Schedule,
    Stateful,
    Store,
    Stream,
)

BATCHES = [torch.full((1, 2), number) for number in range(6)]


class Shelf:
    """A store in memory: keeps every state, resumes from the one it is given."""

    def __init__(self, saved=None):
        self.saved, self.states = saved, []

    def load_state(self):
        return self.saved

    def save_state(self, tensors, log):
        copied = {name: value.clone() for name, value in tensors.items()}
        self.states.append((copied, {name: list(values) for name, values in log.items()}))


def adamw(parameters, rate=0.1, steps=6):
    return Descent(torch.optim.AdamW(parameters, lr=rate), Cosine(steps))


def loop(start=3.0, **settings):
    weight = nn.Parameter(torch.tensor([start]), requires_grad=False)
    made = lambda ids, step: (weight * (1 + ids.float().mean())).square().sum()  # noqa: E731
    return Loop([weight], made, [adamw([weight])], **settings)


def run(made, saved=None, batches=BATCHES):
    shelf = Shelf(saved)
    made.run(batches, store=shelf, every=2)
    return shelf.states


def test_a_cosine_rises_over_a_tenth_and_falls():
    rates = [Cosine(40).rate(step, 2.0) for step in range(40)]
    assert rates[:5] == [0.5, 1.0, 1.5, 2.0, 2.0] and rates[4:] == sorted(rates[4:], reverse=True)
    assert 0 < rates[-1] < 0.02 and Cosine(1).rate(0, 2.0) == 2.0


@pytest.mark.parametrize("steps", [1, 7, 40])
def test_a_linear_rate_is_that_of_transformers(steps):
    from transformers import get_linear_schedule_with_warmup

    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.3)
    other = get_linear_schedule_with_warmup(optimizer, math.ceil(steps / 10), steps)
    for step in range(steps):
        assert Linear(steps).rate(step, 0.3) == other.get_last_lr()[0]
        optimizer.step()
        other.step()


def test_what_was_stopped_anywhere_goes_on_with_the_same_bits():
    straight = loop()
    assert len(run(straight)) == 3 and len(straight.losses) == 6
    for stop in (2, 4):
        first, second = loop(), loop(start=0.0)
        run(second, saved=run(first, batches=BATCHES[:stop])[-1])
        assert torch.equal(second.parameters[0], straight.parameters[0]) and second.losses == straight.losses


class Noisy:
    """Weights and mask logits that learn at rates of their own, from noisy passes; two numbers beside the loss."""

    def __init__(self, stream):
        self.weights, self.logits = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.zeros(3))
        self.bias, self.stream, self.seen = nn.Parameter(torch.zeros(2)), stream, torch.zeros(1)

    def __call__(self, batch, step):
        self.seen = self.seen + batch.mean()
        keep = torch.sigmoid(self.logits * (1 + step) + torch.randn(3, generator=self.stream))
        fit = (batch @ (self.weights * keep).T + self.bias - 1).square().mean()
        return {"loss": fit + keep.sum() / 10, "fit": fit, "kept": keep.sum()}

    def state(self):
        return {"seen": self.seen}

    def load_state(self, tensors):
        self.seen = tensors["seen"]


def noisy_loop():
    made = Noisy(torch.Generator().manual_seed(0))
    groups = [{"params": [made.bias], "lr": 0.01}, {"params": [made.weights], "lr": 0.1}]
    sgd = Descent(torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True), Cosine(6))
    adam = Descent(torch.optim.Adam([made.logits], lr=0.02, betas=(0.5, 0.999)), Linear(6))
    others = {"objective": made, "noise": Stream(made.stream)}
    return Loop([made.weights, made.logits, made.bias], made, [sgd, adam], others=others, accumulate=2, clip=None)


def test_two_optimizers_named_numbers_and_random_streams_resume_with_the_same_bits():
    batches = [torch.randn(4, 3, generator=torch.Generator().manual_seed(seed)) for seed in range(11)]
    straight, second = noisy_loop(), noisy_loop()
    states = run(straight, batches=batches)
    assert {name: len(values) for name, values in straight.log.items()} == {"loss": 6, "fit": 6, "kept": 6}
    run(second, saved=states[1], batches=batches)
    assert second.log == straight.log
    assert all(torch.equal(one, other) for one, other in zip(second.parameters, straight.parameters, strict=True))
    assert torch.equal(second.objective.seen, straight.objective.seen)
    assert torch.equal(second.objective.stream.get_state(), straight.objective.stream.get_state())


def test_every_group_has_its_own_peak():
    made = noisy_loop()
    made.step(torch.ones(4, 3))
    sgd, adam = (descent.optimizer.param_groups for descent in made.descents)
    assert [group["lr"] for group in sgd] == [0.01, 0.1] and adam[0]["lr"] == 0.0


def test_accumulated_batches_give_the_gradient_of_their_mean():
    one, other = loop(clip=None), loop(clip=None)
    both = torch.cat(BATCHES[:2], dim=1)
    one.objective = other.objective = lambda ids, step: (one.parameters[0] * ids.float()).sum() / ids.numel()
    one.step(both)
    whole = one.parameters[0].grad.clone()
    one.step(*BATCHES[:2])
    assert torch.equal(one.parameters[0].grad, whole)


def test_a_gradient_is_clipped_unless_told_otherwise():
    clipped, free = loop(), loop(clip=None)
    clipped.step(BATCHES[5]), free.step(BATCHES[5])
    assert clipped.parameters[0].grad.norm() <= 1.0 < free.parameters[0].grad.norm()


def test_a_loss_that_is_no_number_names_its_step():
    weight = nn.Parameter(torch.ones(1))
    broken = Loop([weight], lambda ids, step: weight.sum() * float("nan"), [adamw([weight])])
    with pytest.raises(NumericalError, match="the loss is nan at step 0"):
        broken.step(BATCHES[0])


def test_roles_are_those_of_the_loop():
    made = Noisy(torch.Generator())
    assert isinstance(made, Objective) and isinstance(made, Stateful) and isinstance(Stream(made.stream), Stateful)
    assert isinstance(Linear(1), Schedule) and isinstance(Shelf(), Store) and isinstance(BATCHES, Batches)

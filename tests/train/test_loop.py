import pytest
import torch
from torch import nn

from secateur.core.errors import NumericalError
from secateur.train.loop import Loop, Schedule, adamw

BATCHES = [torch.full((1, 2), number) for number in range(6)]


def loop(start=3.0, steps=6):
    weight = nn.Parameter(torch.tensor([start]), requires_grad=False)
    objective = lambda ids: (weight * (1 + ids.float().mean())).square().sum()  # noqa: E731
    return Loop(objective, adamw([weight], Schedule(steps, 0.1)))


def run(made, saved=None, batches=BATCHES):
    states = []
    made.run(batches, saved=saved, save=lambda *state: states.append(state), every=2, progress=lambda *far: None)
    return states


def test_the_rate_rises_over_a_tenth_and_falls_as_a_cosine():
    rates = [Schedule(40, 2.0).rate(step) for step in range(40)]
    assert rates[:5] == [0.5, 1.0, 1.5, 2.0, 2.0] and rates[4:] == sorted(rates[4:], reverse=True)
    assert 0 < rates[-1] < 0.02 and Schedule(1, 2.0).rate(0) == 2.0


def test_what_was_stopped_anywhere_goes_on_with_the_same_bits():
    straight = loop()
    states = [(dict(tensors), list(losses)) for tensors, losses in run(straight)]
    assert len(states) == 3 and len(straight.losses) == 6
    for stop in (2, 4):
        first, second = loop(), loop(start=0.0)
        state = run(first, batches=BATCHES[:stop])[-1]
        run(second, saved=({name: value.clone() for name, value in state[0].items()}, list(state[1])))
        assert torch.equal(second.parameters[0], straight.parameters[0]) and second.losses == straight.losses


def test_a_loss_that_is_no_number_names_its_step():
    weight = nn.Parameter(torch.ones(1))
    broken = Loop(lambda ids: weight.sum() * float("nan"), adamw([weight], Schedule(2, 0.1)))
    with pytest.raises(NumericalError, match="the loss is nan at step 0"):
        broken.step(BATCHES[0])

import pytest
import torch
from torch import nn

from secateur.masks import adam
from secateur.masks.adam import HalfAdam


@pytest.mark.parametrize("compiled", [True, False])
def test_steps_follow_adam_within_the_rounding_of_moments(compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(adam, "library", lambda source: None)
    elif adam.library(adam.SOURCE) is None:
        pytest.skip("no C++ compiler here")
    stream = torch.Generator().manual_seed(0)
    start = torch.randn(6, 5, 7, generator=stream)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    pair = HalfAdam([ours], 0.01), torch.optim.Adam([theirs], lr=0.01, betas=(0.9, 0.95), eps=1e-8)
    for _ in range(50):
        gradient = torch.randn(start.shape, generator=stream) + 0.5
        for parameter, optimizer in zip((ours, theirs), pair, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    moved = (theirs - start).detach().abs().mean()
    assert float((ours - theirs).detach().abs().max()) < 0.03 * float(moved)


def test_compiled_steps_are_those_of_torch(monkeypatch):
    if adam.library(adam.SOURCE) is None:
        pytest.skip("no C++ compiler here")
    gradient, made = torch.randn(3, 33, generator=torch.Generator().manual_seed(1)), []
    for _ in range(2):
        parameter = nn.Parameter(torch.ones(3, 33))
        parameter.grad = gradient
        HalfAdam([parameter], 0.1).step()
        made.append(parameter.detach())
        monkeypatch.setattr(adam, "library", lambda source: None)
    assert torch.allclose(*made, rtol=1e-5)


def test_moments_take_two_bytes_and_come_back_so():
    parameter = nn.Parameter(torch.ones(4))
    parameter.grad = torch.ones(4)
    first = HalfAdam([parameter], 0.1)
    first.step()
    second = HalfAdam([parameter], 0.1)
    second.load_state_dict(first.state_dict())
    for optimizer in (first, second):
        assert {value.dtype for name, value in optimizer.state[parameter].items() if name != "step"} == {torch.bfloat16}


def test_a_parameter_without_gradient_stays():
    parameter = nn.Parameter(torch.ones(4))
    HalfAdam([parameter], 0.1).step()
    assert torch.equal(parameter.detach(), torch.ones(4))

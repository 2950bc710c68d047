import pytest
import torch

from secateur.core.errors import ModelError
from secateur.infer.calls import Calls


def test_equal_tensors_are_held_once_and_others_by_batch():
    calls, state = Calls(), {}
    mask, pair = torch.ones(3, 3), (torch.zeros(2), torch.ones(2))
    calls.keep(0, 0, 4, ((mask,), {"position": pair, "own": torch.ones(2), "state": state}))
    calls.seal()
    calls.keep(
        0, 1, 4, ((mask.clone(),), {"position": tuple(t.clone() for t in pair), "own": torch.zeros(2), "state": {}})
    )
    (args, kwargs), (args1, kwargs1) = calls[0, 0], calls[0, 1]
    assert args1[0] is args[0] is mask
    assert kwargs1["position"][1] is kwargs["position"][1] is pair[1]
    assert not torch.equal(kwargs1["own"], kwargs["own"]) and kwargs["state"] is state
    with pytest.raises(ModelError, match="depend on the tokens"):
        calls.common(0, 4)


def test_a_smaller_last_batch_has_arguments_of_its_own():
    calls = Calls()
    calls.keep(0, 0, 4, ((torch.ones(4),), {}))
    calls.keep(0, 1, 2, ((torch.ones(2),), {}))
    assert len(calls[0, 1][0][0]) == 2
    assert len(calls.common(0, 2)[0][0]) == 2 and len(calls.common(0, 4)[0][0]) == 4

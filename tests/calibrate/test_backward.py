import pytest
import torch

from conftest import tiny_model
from secateur.adapt.structure import describe
from secateur.calibrate.backward import gather_backward, split_needs, stored, unstored
from secateur.calibrate.gradient import Gradient
from secateur.calibrate.sensitivity import Sensitivity
from secateur.calibrate.statistic import Gram, InputRMS


def test_kinds_are_told_apart_by_what_they_are():
    assert split_needs((Gram, Gradient, InputRMS, Sensitivity)) == ([Gram, InputRMS], [Gradient, Sensitivity])


def test_kinds_gathered_together_are_those_gathered_alone(ids):
    structure = describe(tiny_model("llama"))
    both = gather_backward(structure, ids, [Gradient, Sensitivity])
    for kind in (Gradient, Sensitivity):
        alone = gather_backward(structure, ids, [kind])
        assert all(torch.equal(parts[kind].value, alone[name][kind].value) for name, parts in both.items())
    assert both.keys() == {layer.name for layer in structure.layers}
    assert not any(parameter.requires_grad for parameter in structure.model.parameters())


@pytest.mark.parametrize("kind", [Gradient, Sensitivity])
def test_what_is_stored_is_read_again(kind, ids):
    parts = next(iter(gather_backward(describe(tiny_model("gpt2")), ids, [kind]).values()))
    again = unstored([kind], *stored(parts), torch.device("cpu"))
    assert torch.equal(again[kind].value, parts[kind].value)


def test_inputs_add_nothing():
    statistic = Gradient(torch.ones(2, 2), 1)
    statistic.update(torch.ones(3, 2))
    assert torch.equal(statistic.value, torch.ones(2, 2))

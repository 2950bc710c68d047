import pytest
import torch
from torch.nn.functional import cross_entropy

from conftest import tiny_model
from secateur.adapt.structure import describe
from secateur.calibrate.backward import gather_backward
from secateur.calibrate.sensitivity import Sensitivity
from secateur.core.errors import CalibrationError


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_it_is_the_mean_squared_gradient_at_the_output(family, ids):
    model = tiny_model(family)
    structure = describe(model)
    layer = structure.layers[3]
    found = {name: parts[Sensitivity] for name, parts in gather_backward(structure, ids[:2], [Sensitivity]).items()}
    expected = torch.zeros(layer.weight.shape[0])
    for sample in ids[:2].split(1):
        change = torch.zeros(1, sample.shape[1], layer.weight.shape[0], requires_grad=True)
        hook = layer.module.register_forward_hook(lambda m, args, out, change=change: out + change)
        logits = model(sample).logits[0, :-1]
        (gradient,) = torch.autograd.grad(cross_entropy(logits, sample[0, 1:], reduction="sum"), change)
        hook.remove()
        expected += gradient[0].square().sum(dim=0)
    assert torch.allclose(found[layer.name].value, expected / ids[:2].numel(), rtol=1e-4)
    both = found[layer.name].merge(Sensitivity()).merge(found[layer.name])
    assert torch.allclose(both.value, found[layer.name].value)


def test_nothing_gathered_is_an_error():
    with pytest.raises(CalibrationError, match="missing or hold NaN"):
        _ = Sensitivity().value

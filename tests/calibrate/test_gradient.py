import pytest
import torch
from torch.nn.functional import cross_entropy

from conftest import CONFIGS
from secateur.adapt.structure import describe
from secateur.calibrate.backward import gather_backward
from secateur.calibrate.gradient import Gradient
from secateur.core.errors import CalibrationError
from secateur.storage.source import Source, load_model


@pytest.mark.parametrize("family", CONFIGS)
def test_gradients_predict_how_the_loss_changes(family, saved, ids):
    model = load_model(Source(saved(family))).double()
    structure = describe(model)
    layer = structure.layers[-1]
    found = gather_backward(structure, ids, [Gradient], [layer.name])[layer.name][Gradient].value
    step = 1e-4 * found.double() / found.norm()

    def loss():
        with torch.no_grad():
            return sum(cross_entropy(model(one).logits[0, :-1], one[0, 1:]) for one in ids.split(1))

    before = loss()
    layer.set_weight(layer.weight + step)
    assert float(loss() - before) == pytest.approx(float((step * found).sum()), rel=1e-2)


def test_only_the_layers_asked_are_there_and_the_model_is_left_as_it_was(saved, ids):
    model = load_model(Source(saved("llama")))
    name = "model.layers.0.mlp.down_proj"
    assert gather_backward(describe(model), ids, [Gradient], [name]).keys() == {name}
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())


def test_merging_is_the_mean_over_all_samples():
    a, b = Gradient(torch.ones(2, 2), 1), Gradient(torch.full((2, 2), 4.0), 4)
    assert torch.equal(a.merge(b).value, torch.ones(2, 2))
    assert a.merge(Gradient()) is a and Gradient().merge(b) is b


def test_no_samples_and_nan_are_errors():
    with pytest.raises(CalibrationError, match="no gradient"):
        _ = Gradient().value
    with pytest.raises(CalibrationError, match="NaN"):
        _ = Gradient(torch.tensor([[torch.nan]]), 1).value

import torch
from torch import nn

from convnet.networks import EXAMPLE, made
from secateur.convnet.trace import evaluating, trace


def test_the_output_is_frozen_and_everything_is_counted():
    traced = trace(made("Residual"), EXAMPLE)
    assert traced.groups.reasons == {"the model's output": 5} and traced.positions["stem.0"] == 64
    assert set(traced.rows) == {"stem.0", "stem.1", "first.0", "first.1", "second.0", "second.1", "head"}
    assert torch.equal(traced.groups.of(traced.rows["second.0"]), traced.groups.of(traced.columns["first.0"]))
    assert traced.groups.added[traced.groups.of(traced.rows["stem.0"])].all()
    assert not traced.groups.added[traced.groups.of(traced.rows["first.0"])].any()


def test_attributes_that_split_are_found():
    literals = trace(made("Listed"), EXAMPLE).literals
    assert {(entry.module, entry.attribute, entry.part) for entry in literals} >= {
        ("", "sizes", 0),
        ("", "sizes", 2),
        ("", "width", None),
    }


def test_bare_tensors_have_their_channels_along_one_dimension():
    traced = trace(made("Bare"), EXAMPLE)
    assert set(traced.bare) == {"scale", "shift", "filter"}
    assert torch.equal(traced.groups.of(traced.bare["shift"])[0, :, 3, 4], traced.groups.of(traced.rows["a"]))


def test_a_weight_that_is_used_outside_its_module_stays():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.head = nn.Linear(8, 6), nn.Linear(6, 5)

        def forward(self, x):
            x = self.a(x)
            return self.head(x) + (x @ self.a.weight)[..., :5]

    traced = trace(Tied(), EXAMPLE)
    assert (traced.groups.free(traced.rows["a"]) == -1).all()


def test_modes_come_back():
    model = made("Residual").train()
    model.head.eval()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert model.training and not model.head.training

import pytest
import torch
from torch import nn

from secateur.core.errors import ModelError
from secateur.runtime.graph import read_steps


class Body(nn.Module):
    """A network whose forward is given."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        self.call = forward

    def forward(self, x):
        return self.call(self.parts, x)


def steps(forward, **parts):
    return read_steps(Body(forward, **parts).eval(), torch.rand(1, 3, 8, 8))


def test_norms_activations_and_sums_fold_into_the_convolution_before_them():
    graph = steps(
        lambda p, x: torch.relu(p["two"](torch.relu(p["norm"](p["one"](x)))) + x).mean((2, 3)),
        one=nn.Conv2d(3, 4, 3, padding=1),
        norm=nn.BatchNorm2d(4),
        two=nn.Conv2d(4, 3, 1),
    )
    assert [step.kind for step in graph.steps.values()] == ["conv", "conv", "pool"]
    one, two, _ = graph.steps.values()
    assert (one.act, one.other, one.pads) == ("relu", None, (1, 1, 1, 1))
    assert (two.act, two.other) == ("relu", graph.input)


def test_what_another_operation_reads_too_is_kept():
    graph = steps(
        lambda p, x: (torch.relu(h := p["one"](x)) + h).mean((2, 3)),
        one=nn.Conv2d(3, 3, 1),
    )
    assert [(step.kind, step.act) for step in graph.steps.values()] == [
        ("conv", "none"),
        ("add", "relu"),
        ("add", "none"),
        ("pool", "none"),
    ]


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (lambda p, x: torch.cat([p["one"](x), x], 1).mean((2, 3)), "aten.cat"),
        (lambda p, x: torch.nn.functional.max_pool2d(p["one"](x), 2).mean((2, 3)), "max_pool2d"),
        (lambda p, x: (p["one"](x) + 1).mean((2, 3)), "aten.add.Tensor of other things"),
        (lambda p, x: (p["one"](x) * 2).mean((2, 3)), "a tensor and a number"),
        (lambda p, x: torch.nn.functional.linear(p["one"](x), torch.eye(8)).mean((2, 3)), "operation"),
        (lambda p, x: (p["one"](x) * p["one"].weight[:1].sum()).mean((2, 3)), "operation"),
        (lambda p, x: p["one"](x).mean((2, 3)).reshape(1, 1, 3).sum(1), "operation"),
        (lambda p, x: (p["one"](x) + p["one"].bias.reshape(1, 3, 1, 1)).mean((2, 3)), "operation"),
        (lambda p, x: p["one"](x).clamp(0, 1).mean((2, 3)), "clamp"),
        (lambda p, x: torch.nn.functional.hardtanh(p["one"](x)).mean((2, 3)), "between"),
        (lambda p, x: p["one"](x).mean(2), "less than a whole picture"),
        (lambda p, x: p["one"](x).flatten(1)[:, :3], "aten.view"),
        (lambda p, x: torch.nn.functional.pad(p["one"](x), (1, 1, 1, 1), "reflect").mean((2, 3)), "operation"),
        (lambda p, x: p["one"](x) if x.sum() > 0 else x, "torch.export says"),
    ],
)
def test_an_operation_that_is_no_step_is_named(forward, words):
    with pytest.raises(ModelError, match="cannot run in blocks") as told:
        steps(forward, one=nn.Conv2d(3, 3, 1))
    assert words in str(told.value) and "\n" not in str(told.value)


def test_groups_of_several_channels_are_refused():
    with pytest.raises(ModelError, match="groups of several channels"):
        steps(lambda p, x: p["two"](p["one"](x)), one=nn.Conv2d(3, 4, 1), two=nn.Conv2d(4, 4, 1, groups=2))

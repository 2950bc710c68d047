import torch
from torch import nn

from secateur.infer.light import light_weights


def test_large_matrices_share_the_memory_of_the_largest_and_the_old_ones_come_back():
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(1000, 1000) for _ in range(50)), nn.Linear(1000, 1000))
    held = model[0].weight
    with light_weights(model):
        places = {layer.weight.untyped_storage().data_ptr() for layer in model}
        assert len(places) == 51 and max(places) - min(places) < 4 * 1000 * 1000  # bytes
        assert all(layer.weight.is_contiguous() for layer in model)
        assert not torch.equal(model[0].weight, model[1].weight)
        assert torch.linalg.matrix_rank(model[0].weight) > 990
    assert model[0].weight is held


def test_matrices_of_a_stack_begin_apart_and_tied_ones_stay_tied():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.stack = nn.Parameter(torch.zeros(5, 30, 40))
            self.first = nn.Linear(4, 4)
            self.second = nn.Linear(4, 4)
            self.second.weight = self.first.weight

    model = Both()
    with light_weights(model, small=100):
        stack = model.stack
        assert [stack[number].storage_offset() // stack.stride(0) for number in range(5)] == list(range(5))
        assert len({float(stack[number].sum()) for number in range(5)}) == 5
        assert model.first.weight is model.second.weight
    assert model.first.weight is model.second.weight and not model.stack.any()


def test_parameters_of_four_dimensions_fit_into_the_memory_there_is():
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(40, 90, 5), nn.Linear(300, 300))
    with light_weights(model):
        assert torch.isfinite(model[0](torch.randn(1, 40, 8, 8))).all()


class Caching(torch.nn.Module):
    """Keeps what it makes of its weights, in three ways."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))
        self.made, self.listed, self.last = {}, [], None

    def forward(self):
        self.made.setdefault("twice", 2 * self.weight)
        self.listed.append(self.weight)
        self.last, self.extra = self.weight.sum(), self.weight.detach()
        return self.made["twice"]


def test_what_modules_keep_of_light_weights_goes_with_them():
    model = Caching()
    made, listed = model.made, model.listed
    with torch.no_grad(), light_weights(model):
        assert not torch.equal(model(), torch.full((2,), 2.0))
    assert model.made is made == {} and model.listed is listed == [] and model.last is None
    assert not hasattr(model, "extra") and torch.equal(model(), torch.full((2,), 2.0))

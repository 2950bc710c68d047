import torch
from torch import nn

from secateur.infer.light import light_weights


def test_a_large_matrix_takes_memory_for_its_edges_and_the_old_one_comes_back():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(5000, 7000), nn.LayerNorm(7000))
    held = model[0].weight
    with light_weights(model):
        light = model[0].weight
        assert light.shape == held.shape and light.untyped_storage().nbytes() < 4 * (2 * 7000 + 5000)
        assert torch.isfinite(model(torch.randn(2, 5000))).all()
        assert model(torch.randn(2, 5000)).std() > 0.1
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

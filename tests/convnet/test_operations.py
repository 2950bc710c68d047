"""The table of operations, through small networks that use them between two convolutions."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from secateur.convnet.trace import trace

X = torch.rand(1, 3, 8, 8)
PASSED = {  # operations that keep every channel apart
    "in place": lambda x: x.clone().relu_().mul_(2),
    "added in place": lambda x: torch.ones_like(x).add_(x).add_(x),
    "gelu": functional.gelu,
    "hardswish": functional.hardswish,
    "softmax over places": lambda x: x.flatten(2).softmax(-1).reshape(x.shape),
    "pools": lambda x: functional.max_pool2d(functional.avg_pool2d(x, 2), 2),
    "adaptive": lambda x: functional.adaptive_avg_pool2d(x, (1, 3)),
    "bicubic": lambda x: functional.interpolate(x, scale_factor=2, mode="bicubic"),
    "padding": lambda x: functional.pad(functional.pad(x, (1, 1, 1, 1)), (1, 1, 1, 1), mode="reflect"),
    "channels last": lambda x: x.to(memory_format=torch.channels_last).permute(0, 2, 3, 1).permute(0, 3, 1, 2),
    "norm over places": lambda x: x / x.norm(dim=(2, 3), keepdim=True),
    "windows": lambda x: x.reshape(1, x.shape[1], 2, 4, 2, 4).transpose(3, 4).reshape(1, x.shape[1], 8, 8),
    "a whole slice": lambda x: x[:, :100],
    "a product over places": lambda x: (x.flatten(2) @ torch.rand(64, 9)).reshape(1, -1, 3, 3),
    "constants": lambda x: torch.where(x > 0, x, torch.zeros_like(x)) + torch.ones(8, 8),
}
TIED = {  # operations that look across channels: all are one unit, or none is removed
    "softmax over channels": lambda x: x.softmax(1),
    "mean over channels": lambda x: x * x.mean(1, keepdim=True),
    "layer norm": lambda x: functional.layer_norm(x, x.shape[1:]),
    "group norm": lambda x: functional.group_norm(x, 2),
    "sort": lambda x: x.sort(dim=1).values,
    "gather": lambda x: x[:, torch.tensor([5, 4, 3, 2, 1, 0])],
    "filters across": lambda x: functional.conv2d(x, torch.rand(6, 6, 1, 1)),
    "a product over channels": lambda x: (torch.rand(6, 6) @ x.flatten(2)).reshape(x.shape),
    "an uneven slice": lambda x: torch.cat([x[:, :1], x[:, 1:]], dim=1),
}


class Between(nn.Module):
    def __init__(self, middle):
        super().__init__()
        self.a, self.b, self.middle = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1), middle

    def forward(self, x):
        return self.b(self.middle(self.a(x)))


@pytest.mark.parametrize("name", PASSED)
def test_channels_stay_apart(name):
    traced = trace(Between(PASSED[name]), X)
    rows, columns = traced.groups.free(traced.rows["a"]), traced.groups.free(traced.columns["b"])
    assert len(rows.unique()) == 6 and -1 not in rows and torch.equal(rows, columns)


@pytest.mark.parametrize("name", TIED)
def test_what_looks_across_channels_ties_them_together(name):
    traced = trace(Between(TIED[name]), X)
    assert len(traced.groups.free(traced.rows["a"]).unique()) == 1


def test_halves_and_strides_lose_equal_places():
    for middle in (
        lambda x: torch.cat(x.chunk(2, dim=1)[::-1], dim=1),
        lambda x: torch.cat([x[:, 3:], x[:, :3]], dim=1),
        lambda x: torch.cat([part.squeeze(1) for part in x.reshape(1, 2, -1, 8, 8).split(1, dim=1)], dim=1),
    ):
        traced = trace(Between(middle), X)
        rows = traced.groups.free(traced.rows["a"])
        assert torch.equal(rows[:3], rows[3:]) and len(rows.unique()) == 3
    traced = trace(Between(lambda x: torch.cat([x[:, ::2], x[:, 1::2]], dim=1)), X)
    rows = traced.groups.free(traced.rows["a"]).reshape(3, 2)
    assert torch.equal(rows[:, 0], rows[:, 1]) and len(rows.unique()) == 3


def test_a_write_into_a_part_keeps_the_whole():
    def written(x):
        y = x.clone()
        y[:, :3] += x[:, 3:]
        return y

    traced = trace(Between(written), X)
    assert (traced.groups.free(traced.rows["a"]) == -1).all()


def test_attention_passes_values_on_and_keeps_queries_and_keys():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(3, 4) for _ in range(4))
            self.o = nn.Linear(4, 5)

        def forward(self, x):
            x = x.flatten(2).transpose(1, 2)[:, None]
            return self.o(functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x)))

    traced = trace(Attention(), X)
    free = {name: traced.groups.free(traced.rows[name]) for name in "qkv"}
    assert (
        (free["q"] == -1).all()
        and (free["k"] == -1).all()
        and torch.equal(free["v"], traced.groups.free(traced.columns["o"]))
    )

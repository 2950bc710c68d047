import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from deprune.networks import mobile, pixels
from secateur.core.errors import InputError
from secateur.runtime.taps import KeptTaps, use_taps_

CASES = """
import itertools, sys
import torch
from torch import nn
from torch.nn.functional import pad
from secateur.runtime.taps import KeptTaps


class Same(nn.Conv2d):  # pads by itself, unevenly
    def forward(self, x):
        return super().forward(pad(x, (0, 1, 1, 2)))


count = 0
settings = itertools.product((3, 5), (1, 2), (0, 2), (1, 2), (16, 21), (nn.Conv2d, Same))
for number, (kernel, stride, padding, dilation, channels, kind) in enumerate(settings):
    torch.manual_seed(number)
    dense = kind(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=number % 2 == 0)
    with torch.no_grad():
        for part in dense.weight.split(16):  # runs keep other numbers of taps, one none at all
            part[:, :, torch.rand(kernel, kernel) < (1.1 if number % 5 == 0 else 0.5)] = 0
    x = torch.randn(1 + number % 3, channels, 9 + number % 4, 11)
    made = KeptTaps(dense)
    with torch.no_grad():
        far = (made(x) - dense(x)).abs().max()
    assert far < 1e-5, (number, far)
    count += 1
assert count == 64
"""


def test_the_kernel_computes_what_the_convolution_does_at_every_stride_padding_and_dilation():
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-c", CASES], env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_elsewhere_the_convolution_itself_runs(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    dense = nn.Conv2d(20, 20, 3, padding=1, groups=20)
    with torch.no_grad():
        dense.weight[:16, :, 0] = 0
    x = torch.randn(2, 20, 6, 6)
    made = KeptTaps(dense)
    assert torch.equal(made(x), dense(x)) and (made.kept, made.all) == (16 * (6 + 9), 2 * 16 * 9)


def test_pruned_layers_are_replaced_and_others_stay(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", type(sys)("triton"))
    model = mobile()
    with pytest.raises(InputError, match="prune with --method deprune"):
        use_taps_(model)
    x = pixels(3)
    with torch.no_grad():
        model.blocks[1].depthwise.weight[:, :, :2] = 0
        expected = model(x)
        assert use_taps_(model) == 1 and isinstance(model.blocks[1].depthwise, KeptTaps)
        assert torch.equal(model(x), expected) and isinstance(model.blocks[0].depthwise, nn.Conv2d)


def test_without_triton_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(InputError, match="pip install triton"):
        use_taps_(mobile())

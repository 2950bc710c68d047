import os
import subprocess
import sys

import pytest

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

import sys

import pytest
import torch
from torch import nn

from deprune.networks import mobile, pixels
from secateur.core.errors import InputError
from secateur.runtime.taps import KeptTaps, use_taps_


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

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from secateur.core.errors import InputError
from secateur.machine.device import HalfProducts, autocasting, half_pays, pick_device


def test_auto_takes_a_gpu_where_one_is():
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert pick_device("auto").type == expected and pick_device("cpu").type == "cpu"


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "", "cpu:x"])
def test_a_device_that_is_not_there_is_refused_by_name(name):
    with pytest.raises(InputError, match="is not there"):
        pick_device(name)


def test_whether_half_pays_is_measured(monkeypatch):
    times = iter([3.0] * 5 + [1.0] * 5 + [1.0] * 5 + [3.0] * 5)
    monkeypatch.setattr("secateur.machine.device._seconds", lambda x, y: next(times))
    assert half_pays(torch.device("cpu")) and not half_pays(torch.device("cpu"))


@pytest.mark.parametrize("half", [True, False])
def test_products_are_in_half_precision_where_asked(half):
    with autocasting(torch.device("cpu"), half=half):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (torch.bfloat16 if half else torch.float32)


def test_half_products_are_those_of_rounded_factors_and_all_else_is_float32():
    x, w, b = torch.randn(5, 7, 16), torch.randn(8, 16), torch.randn(8)
    layer = torch.nn.Linear(16, 8)
    layer.weight.data, layer.bias.data = w, b
    expected = (x.bfloat16() @ w.bfloat16().T).float() + b
    with torch.no_grad(), HalfProducts():
        assert torch.equal(layer(x), expected) and layer(x).dtype == torch.float32
        assert torch.equal(torch.nn.functional.linear(x, w) + b, expected)
        assert torch.equal(torch.nn.functional.linear(x, w, bias=b), expected)
        assert torch.equal(x @ w.T, torch.matmul(x, w.T)) and (x @ w.T).dtype == torch.float32
        assert torch.nn.functional.linear(x.double(), w.double()).dtype == torch.float64
    with torch.no_grad():
        assert not torch.equal(layer(x), expected) and torch.allclose(layer(x), expected, atol=0.1)


def test_half_products_of_transposed_layers_too():
    layer, x = Conv1D(8, 16), torch.randn(5, 7, 16)
    layer.bias.data.normal_()
    with torch.no_grad(), HalfProducts():
        found = layer(x)
    expected = (x.reshape(-1, 16).bfloat16() @ layer.weight.bfloat16()).float() + layer.bias
    assert torch.equal(found, expected.reshape(5, 7, 8))

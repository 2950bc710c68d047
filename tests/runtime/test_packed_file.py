import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from secateur.core.errors import InputError
from secateur.runtime.packed_file import load_packed, save_packed, use_packed_
from secateur.runtime.two_four import TwoFour


def sparse(rows, columns):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)).bfloat16()
    weight.view(rows, -1, 4)[:, :, ::2] = 0
    return weight


@pytest.fixture
def file(tmp_path):
    tensors = {"a.weight": sparse(17, 8), "a.bias": torch.ones(17), "b.weight": sparse(3, 8), "norm": torch.ones(8)}
    assert save_packed(tmp_path / "packed", tensors.items(), {"a"}) == 1
    return tmp_path / "packed"


def test_named_layers_are_packed_and_all_else_is_as_it_was(file):
    tensors, packed = load_packed(file)
    assert set(tensors) == {"a.bias", "b.weight", "norm"} and set(packed) == {"a"}
    assert torch.equal(packed["a"].unpack(), sparse(17, 8)) and torch.equal(tensors["b.weight"], sparse(3, 8))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"kind": "x"}, "its kind is 'x'"),
        ({"rows": '{"a": 16}'}, "for 16 rows"),
        ({"rows": '{"a": "17"}'}, "for 17 rows"),
        ({"rows": '{"c": 17}'}, "c.values"),
        ({"rows": "[1]"}, "no packed model"),
        ({"rows": "{"}, "no packed model"),
    ],
)
def test_damaged_files_are_refused(change, why, file, tmp_path):
    with safe_open(file, "pt") as opened:
        about, tensors = dict(opened.metadata()), {name: opened.get_tensor(name) for name in opened.keys()}
    save_file(tensors, tmp_path / "wrong", about | change)
    with pytest.raises(InputError, match=why):
        load_packed(tmp_path / "wrong")
    (tmp_path / "text").write_text(json.dumps(about))
    with pytest.raises(InputError, match="no packed model"):
        load_packed(tmp_path / "text")


def test_models_without_2_of_4_are_refused(tmp_path):
    with pytest.raises(InputError, match="no layer of the model is 2:4"):
        save_packed(tmp_path / "packed", [("a.weight", torch.ones(4, 4))], {"a"})
    assert list(tmp_path.iterdir()) == []


def test_packed_layers_take_the_place_of_linear_ones_of_their_size():
    model = nn.Sequential(nn.Linear(8, 17), nn.ReLU())
    packed = TwoFour.pack(sparse(17, 8))
    with pytest.raises(InputError, match="packed layer 1 of 17 x 8 is no linear layer"):
        use_packed_(model, {"1": packed})
    with pytest.raises(InputError, match="packed layer 2 of"):
        use_packed_(model, {"2": packed})
    use_packed_(model, {"0": packed})
    assert type(model[0]).__name__ == "SparseLinear" and model[0](torch.ones(1, 8)).shape == (1, 17)

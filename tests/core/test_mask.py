import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from secateur.core.errors import InputError
from secateur.core.mask import Masks, pack, unpack


@given(st.integers(1, 9), st.integers(1, 30))
def test_packing_is_lossless_and_eight_to_a_byte(rows, columns):
    keep = torch.rand(rows, columns) > 0.5
    bits = pack(keep)
    assert bits.numel() == -(-rows * columns // 8)
    assert torch.equal(unpack(bits, (rows, columns)), keep)


def test_save_load_apply_and_count(tmp_path):
    masks = Masks({"a": torch.tensor([[True, False, True]]), "b": torch.zeros(2, 2, dtype=torch.bool)})
    masks.save(tmp_path / "masks.safetensors")
    loaded = Masks.load(tmp_path / "masks.safetensors")
    assert all(torch.equal(loaded.keep[name], mask) for name, mask in masks.keep.items())
    assert loaded.sparsity == pytest.approx(5 / 7)
    applied = loaded.apply({"a": torch.tensor([[1.0, 2.0, 3.0]]), "c": torch.ones(1)})
    assert applied["a"].tolist() == [[1.0, 0.0, 3.0]] and applied["c"].tolist() == [1.0]


def test_another_file_is_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"nonsense")
    for name in ("a", "b", "missing"):
        with pytest.raises(InputError, match="not a mask file"):
            Masks.load(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize(
    "shapes", ['{"w": [2, 5]}', '{"w": [2, 50]}', '{"w": [-1, -8]}', '{"w": "x"}', '{"w": 3}', "[]", "{}"]
)
def test_bits_that_do_not_fit_their_shape_are_refused(shapes, tmp_path):
    save_file({"w": torch.zeros(1, dtype=torch.uint8)}, tmp_path / "m.safetensors", {"shapes": shapes})
    with pytest.raises(InputError, match="is not a mask file"):
        Masks.load(tmp_path / "m.safetensors")

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from secateur.core.errors import InputError
from secateur.core.mask import Masks
from secateur.core.pattern import NM
from secateur.masks.candidates import Candidates
from secateur.masks.packed import MaskFile, pack_numbers, unpack_numbers


@pytest.mark.parametrize("bits", range(1, 8))
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 8), (0, 4)])
def test_packing_and_unpacking_change_nothing(bits, shape):
    for numbers in (
        torch.randint(2**bits, shape, dtype=torch.uint8),
        torch.full(shape, 2**bits - 1, dtype=torch.uint8),
    ):
        packed = pack_numbers(numbers, bits)
        assert packed.numel() == -(-numbers.numel() * bits // 8)
        assert torch.equal(unpack_numbers(packed, shape, bits), numbers)


@pytest.mark.parametrize(("n", "m", "bits"), [(2, 4, 3), (1, 4, 2), (4, 8, 7), (1, 2, 1), (4, 4, 1)])
def test_a_file_has_as_many_bits_as_candidates_need(n, m, bits, tmp_path):
    pattern = NM(n=n, m=m)
    numbers = torch.randint(len(Candidates(pattern)), (5, 6))
    masks = Masks({"a.b": Candidates(pattern).keep(numbers)})
    made = MaskFile.of(masks, pattern, {"a.b": "digest"})
    made.save(tmp_path / "masks")
    again = MaskFile.load(tmp_path / "masks")
    assert made.bits == again.bits == bits and again.pattern == pattern and again.base == {"a.b": "digest"}
    assert torch.equal(again.masks().keep["a.b"], masks.keep["a.b"])
    with safe_open(tmp_path / "masks", "pt") as file:
        assert file.get_tensor("a.b").numel() == -(-30 * bits // 8)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"kind": "other"}, "its kind is"),
        ({"pattern": "row"}, "does not fit"),
        ({"pattern": "9:4"}, "9"),
        ({"shapes": "{}"}, "does not fit"),
        ({"shapes": '{"a": [3, 3]}'}, "no 9 numbers"),
        ({"shapes": '{"a": [-1, -8]}'}, "no 8 numbers"),
        ({"shapes": "["}, "not a packed"),
        ({"base": "[]"}, "does not fit"),
        (None, "names candidate 7 of 6"),
    ],
)
def test_damaged_files_are_refused(change, why, tmp_path):
    MaskFile(NM(), {"a": torch.zeros(2, 4, dtype=torch.uint8)}, {}).save(tmp_path / "masks")
    with safe_open(tmp_path / "masks", "pt") as file:
        about, packed = dict(file.metadata()), file.get_tensor("a")
    save_file({"a": packed if change else torch.full_like(packed, 255)}, tmp_path / "wrong", about | (change or {}))
    with pytest.raises(InputError, match=why):
        MaskFile.load(tmp_path / "wrong")

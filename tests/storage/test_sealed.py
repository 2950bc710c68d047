import pytest
import torch
from safetensors.torch import save_file

from secateur.core.errors import InputError
from secateur.storage.sealed import load_sealed, save_sealed, tensor_digest


def test_tensors_and_words_come_back_and_any_changed_byte_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {"a": torch.randn(3, 4).T, "b": torch.tensor([True, False]), "c": torch.zeros(0)}
    save_sealed(path, tensors, {"x": [1, 2]})
    loaded, extra = load_sealed(path)
    assert extra == {"x": [1, 2]} and all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    whole = path.read_bytes()
    for place in range(8, len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            again, words = load_sealed(path)
        except InputError as error:
            assert path.name in str(error)
        else:  # spaces that pad the header say nothing
            assert words == extra and tensor_digest(again) == tensor_digest(loaded)


def test_what_is_not_sealed_is_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"a\.safetensors is damaged"):
        load_sealed(tmp_path / "a.safetensors")


def test_a_digest_tells_names_kinds_shapes_and_values_apart():
    one = {"a": torch.zeros(2, 2)}
    others = [{"b": torch.zeros(2, 2)}, {"a": torch.zeros(4)}, {"a": torch.zeros(2, 2).half()}, {"a": torch.ones(2, 2)}]
    assert len({tensor_digest(tensors) for tensors in [one, *others]} | {tensor_digest(one, "x")}) == 6


def test_another_file_in_its_place_is_refused(tmp_path):
    for name in ("x", "y"):
        save_sealed(tmp_path / f"{name}.safetensors", {"a": torch.ones(2)})
    (tmp_path / "y.safetensors").replace(tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=r"x\.safetensors is damaged .* remove .*run and start again"):
        load_sealed(tmp_path / "x.safetensors", tmp_path / "run")

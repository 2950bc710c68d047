import pytest
import torch
from safetensors.torch import load_file, save_file

from secateur.core.errors import InputError
from secateur.core.mask import Masks
from secateur.core.pattern import NM
from secateur.masks.apply import apply_masks, compare_masks, pack_masks, read_masks, unpack_masks
from secateur.masks.packed import MaskFile
from secateur.run.prune import prune
from secateur.run.recipe import Recipe


@pytest.fixture
def packed(saved, tmp_path):
    prune(saved("gpt2"), Recipe(method="magnitude", pattern="2:4"), tmp_path / "pruned")
    pack_masks(tmp_path / "pruned", NM(), saved("gpt2"), tmp_path / "masks.nm")
    return tmp_path / "masks.nm"


def test_a_dense_model_under_a_file_is_the_pruned_one(packed, saved, tmp_path):
    found = apply_masks(saved("gpt2"), packed, tmp_path / "out")
    pair = [load_file(tmp_path / name / "model.safetensors") for name in ("out", "pruned")]
    assert found["sparsity"] == 0.5 and all(torch.equal(value, pair[1][name]) for name, value in pair[0].items())
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith("partial")] == []


@pytest.mark.parametrize("what", ["weights", "layer", "size"])
def test_masks_of_another_model_are_refused(what, packed, saved, tmp_path):
    made, dense = MaskFile.load(packed), saved("gpt2")
    name = next(iter(made.numbers))
    if what == "weights":
        dense = tmp_path / "other"
        dense.mkdir()
        for path in saved("gpt2").iterdir():
            (dense / path.name).write_bytes(path.read_bytes())
        tensors = load_file(dense / "model.safetensors")
        tensors["transformer.h.1.mlp.c_fc.weight"][0, 0] += 1e-3
        save_file(tensors, dense / "model.safetensors", {"format": "pt"})
    elif what == "layer":
        MaskFile(NM(), {"no.such": made.numbers[name]}, {}).save(tmp_path / "wrong.nm")
    else:
        MaskFile(NM(), {name: made.numbers[name][:-1]}, {}).save(tmp_path / "wrong.nm")
    file = packed if what == "weights" else tmp_path / "wrong.nm"
    with pytest.raises(
        InputError, match={"weights": "other weights", "layer": "name its dense model", "size": "mask of"}[what]
    ):
        apply_masks(dense, file, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


def test_masks_are_read_from_folders_and_both_kinds_of_file(packed, tmp_path):
    unpack_masks(packed, tmp_path / "bits.safetensors")
    known = [read_masks(path).keep for path in (tmp_path / "pruned", tmp_path / "bits.safetensors", packed)]
    assert all(torch.equal(mask, other[name]) for other in known[1:] for name, mask in known[0].items())
    with pytest.raises(InputError, match="already exists"):
        unpack_masks(packed, tmp_path / "bits.safetensors")


def test_differences_are_counted_by_block(tmp_path):
    keep = NM().keep(torch.rand(3, 8, generator=torch.Generator().manual_seed(0)), 0.5)
    other = keep.clone()
    other[1, :4] = ~other[1, :4]
    for name, mask in (("one", keep), ("two", other)):
        Masks({"a": mask}).save(tmp_path / name)
    found = compare_masks(tmp_path / "one", tmp_path / "two")
    assert (found.blocks, found.changed, found.layers) == (6, 1, {"a": pytest.approx(1 / 6)})

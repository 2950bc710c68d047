import pytest
import torch

from conftest import run as in_process
from secateur.core.mask import Masks
from secateur.core.pattern import NM, Unstructured


@pytest.fixture
def run(monkeypatch, capsys):
    return lambda *args: in_process(monkeypatch, capsys, *args)


def random_weight(rows, columns):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))


@pytest.mark.parametrize("file", ["text", "masks", "folder"])
def test_files_that_are_no_packed_masks_are_refused_by_name(run, file, saved, tmp_path):
    path = tmp_path / "masks.nm"
    if file == "text":
        path.write_text("masks")
    elif file == "masks":
        Masks({}).save(path)
    else:
        path.mkdir()
    for line in (
        ("apply", str(saved("llama")), path, "--out", tmp_path / "out"),
        ("unpack", path, "--out", tmp_path / "o"),
    ):
        code, _, said = run("mask", *line)
        assert code == 2 and "masks.nm is not a packed mask file" in said
        assert [part.name for part in tmp_path.iterdir()] == ["masks.nm"]


def test_masks_that_are_not_of_the_pattern_are_refused_with_their_layer(run, tmp_path):
    keep = Unstructured().keep(random_weight(8, 16).abs(), 0.4)
    Masks({"a.b": keep}).save(tmp_path / "free.safetensors")
    code, _, said = run("mask", "pack", tmp_path / "free.safetensors", "--out", tmp_path / "packed")
    assert code == 2 and "a.b: " in said and "do not keep 2 of 4" in said and not (tmp_path / "packed").exists()


def test_masks_of_other_layers_or_sizes_do_not_compare(run, tmp_path):
    for name, own in (("one", {"a": (4, 8)}), ("two", {"b": (4, 8)}), ("three", {"a": (4, 12)})):
        keep = {layer: NM().keep(random_weight(*shape).abs(), 0.5) for layer, shape in own.items()}
        Masks(keep).save(tmp_path / name)
    code, _, said = run("mask", "diff", tmp_path / "one", tmp_path / "two")
    assert code == 2 and "masks of other layers" in said
    code, _, said = run("mask", "diff", tmp_path / "one", tmp_path / "three")
    assert code == 2 and "a is [4, 8]" in said

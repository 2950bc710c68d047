"""Runs on a GPU: masks and ratios as on the CPU, weights within rounding."""

import json

import pytest
import torch
from safetensors.torch import load_file

from secateur import prune
from secateur.core.errors import InputError
from secateur.core.mask import Masks
from secateur.run.recipe import Recipe

CASES = [
    Recipe(method="sparsegpt", ratio=0.5),
    Recipe(method="admm", pattern="2:4", reconstruct=2),
    Recipe(method="wanda", ratio=0.5, allocator="knapsack"),
    Recipe(method="taylor", ratio=0.25),
    Recipe(method="slimgpt", ratio=0.25),
    Recipe(method="flap", ratio=0.25),
    Recipe(method="shortgpt", ratio=0.5),
]


def on(device, recipe):
    return Recipe(**{**vars(recipe), "device": device})


def test_a_device_that_is_not_there_is_refused_before_any_work(saved, ids, tmp_path):
    with pytest.raises(InputError, match="device 'cuda:99' is not there"):
        prune(saved("llama"), Recipe(ratio=0.5, device="cuda:99"), tmp_path / "out", ids=ids)
    assert list(tmp_path.iterdir()) == []


def test_the_device_stands_in_the_result(saved, ids, tmp_path):
    prune(saved("llama"), Recipe(method="magnitude", ratio=0.5, device="cpu"), tmp_path / "out", ids=ids)
    assert json.loads((tmp_path / "out" / "result.json").read_text())["device"] == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("recipe", CASES, ids=lambda recipe: str(recipe.method))
def test_a_gpu_prunes_as_the_cpu_does(recipe, saved, ids, tmp_path):
    for device in ("cpu", "cuda"):
        prune(saved("llama"), on(device, recipe), tmp_path / device, ids=ids)
    one, two = (load_file(tmp_path / device / "model.safetensors") for device in ("cpu", "cuda"))
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], rtol=1e-2, atol=1e-3 * float(tensor.abs().max()))
    if (tmp_path / "cpu" / "masks.safetensors").exists():
        first, second = (Masks.load(tmp_path / device / "masks.safetensors").keep for device in ("cpu", "cuda"))
        assert all(float((first[name] == second[name]).float().mean()) > 0.99 for name in first)

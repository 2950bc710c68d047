from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from secateur.core.errors import InputError
from secateur.core.files import read_sealed
from secateur.run.allocate import allocate_model, survey_model
from secateur.run.methods import ALLOCATORS
from secateur.run.prune import prune
from secateur.run.recipe import Recipe


@pytest.mark.parametrize(
    "allocator", [*sorted(ALLOCATORS), {"name": "als", "within": True}, {"name": "als", "smooth": True}]
)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_allocator_meets_the_target_on_a_model(allocator, family, saved, ids):
    recipe = Recipe(method="magnitude", ratio=0.5, allocator=allocator)
    found = allocate_model(saved(family), recipe, ids=ids)
    sizes = {name: 1.0 for name in found.ratios}
    from safetensors import safe_open

    with safe_open(saved(family) / "model.safetensors", "pt") as file:
        stored = {key: file.get_slice(key).get_shape() for key in file.keys()}
    for key, shape in stored.items():
        for name in sizes:
            if key in (f"{name}.weight", f"{name}.weight".removeprefix("transformer.")):
                sizes[name] = shape[0] * shape[1]
    assert min(sizes.values()) > 1 and found.mean(sizes) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("method", ["wanda", "sparsegpt", "slimgpt"])
@pytest.mark.parametrize("allocator", ["owl", "knapsack"])
def test_any_allocator_works_with_any_solver(method, allocator, saved, ids, tmp_path):
    recipe = Recipe(method=method, ratio=0.5, allocator=allocator, round_to=1)
    result = prune(saved("llama"), recipe, tmp_path / "out", ids=ids)
    assert result.sparsity == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("method", ["magnitude", "wanda", "refit", "slimgpt"])
@pytest.mark.parametrize("allocator", [*sorted(ALLOCATORS), {"name": "als", "within": True}])
def test_exempt_blocks_are_untouched_and_the_others_meet_the_ratio(allocator, method, saved, ids, tmp_path):
    source = saved("llama", 5)
    name = allocator if isinstance(allocator, str) else allocator["name"]
    pattern = "4:8" if method == "wanda" else None
    recipe = Recipe(
        method=method, ratio=None if pattern else 0.4, pattern=pattern, allocator=allocator, exempt=[0, -1], round_to=1
    )
    result = prune(source, recipe, tmp_path / "out", ids=ids)
    assert result.sparsity == pytest.approx(0.5 if pattern else 0.4, abs=0.02), name
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "out"))
    for key, tensor in before.items():
        if key.startswith(("model.layers.0.", "model.layers.4.")):
            assert torch.equal(after[key], tensor), key
    assert not (tmp_path / "out.partial").exists()


def test_a_file_of_ratios_gives_what_the_allocator_gives(saved, ids, tmp_path):
    recipe = Recipe(method="magnitude", ratio=0.5, allocator="owl")
    direct = prune(saved("llama"), recipe, tmp_path / "direct", ids=ids)
    assert direct.calibration_tokens == ids.numel()
    fixed = Recipe(method="magnitude", ratio=0.5, ratios=allocate_model(saved("llama"), recipe, ids=ids).ratios)
    again = prune(saved("llama"), fixed, tmp_path / "again", ids=ids)
    assert [layer.ratio for layer in direct.layers] == [layer.ratio for layer in again.layers]
    weights = [(folder / "model.safetensors").read_bytes() for folder in (direct.out, again.out)]
    assert weights[0] == weights[1]


def test_a_resumed_run_keeps_the_ratios_it_started_with(saved, ids, tmp_path, monkeypatch):
    recipe = Recipe(method="wanda", ratio=0.5, allocator="owl")

    def stop(done, total):
        if (tmp_path / "out.partial" / "allocation.json").exists() and done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune(saved("llama"), recipe, tmp_path / "out", ids=ids, progress=stop)
    kept = read_sealed(tmp_path / "out.partial" / "allocation.json")
    monkeypatch.setattr("secateur.run.blocks.read_blocks", None)
    result = prune(saved("llama"), recipe, tmp_path / "out", ids=ids, resume=True)
    assert result.resumed_blocks == 1
    assert {layer.name for layer in result.layers} == set(kept)


def test_bad_ids_are_refused_before_any_work(saved):
    for allocator in ("owl", "knapsack"):
        recipe = Recipe(method="magnitude", ratio=0.5, allocator=allocator)
        with pytest.raises(InputError, match="vocabulary"):
            allocate_model(saved("llama"), recipe, ids=torch.full((2, 8), 200))


def test_one_survey_serves_every_target(saved, ids):
    recipe = Recipe(method="magnitude", ratio=0.5, allocator="owl")
    survey = survey_model(saved("llama"), recipe, ids=ids)
    for ratio in (0.3, 0.5, 0.7):
        assert survey.ratios(ratio) == allocate_model(saved("llama"), replace(recipe, ratio=ratio), ids=ids)

import copy

import pytest
import torch
from torch import nn

from convnet.networks import NETWORKS, made
from secateur.core.errors import InputError, PatternError
from secateur.images.sparse import sparsify_
from secateur.run.recipe import Recipe

X = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt", "refit", "ria"])
@pytest.mark.parametrize("kind", [kind for kind in NETWORKS if kind != "Attended"])
def test_every_layer_gets_its_share_of_zeros(kind, method):
    model = made(kind)
    done = sparsify_(model, Recipe(method=method, pattern="row", ratio=0.5), X)
    for name in done.layers:
        weight = model.get_submodule(name).weight.flatten(1)
        assert bool(((weight == 0).sum(1) >= weight.shape[1] // 2).all()), name
    assert abs(done.sparsity - 0.5) < 0.1 and model(X).isfinite().all()
    grouped = [name for name, module in model.named_modules() if getattr(module, "groups", 1) > 1]
    assert set(grouped) <= set(done.skipped)


def test_repair_is_nearer_to_the_dense_network():
    model, far = made("Residual"), {}
    with torch.no_grad():
        dense = model(X)
        for method in ("magnitude", "sparsegpt"):
            own = copy.deepcopy(model)
            sparsify_(own, Recipe(method=method, pattern="unstructured", ratio=0.5), X)
            far[method] = float((own(X) - dense).square().mean())
    assert far["sparsegpt"] < far["magnitude"]


def test_n_of_m_leaves_layers_that_do_not_fit_and_says_so():
    model = made("Residual")
    done = sparsify_(model, Recipe(method="sparsegpt", pattern="2:4"), X)
    assert "stem.0" in done.skipped and "27" in done.skipped["stem.0"]
    weight = model.first[0].weight.flatten(1).reshape(-1, 4)
    assert bool(((weight != 0).sum(1) <= 2).all()) and done.sparsity == pytest.approx(0.5)
    with pytest.raises(PatternError, match="no layer can be pruned so"):
        sparsify_(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), Recipe(method="magnitude", pattern="7:11"), X)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(method="slimgpt", ratio=0.5),
        Recipe(method="taylor", pattern="row", ratio=0.5),
        Recipe(method="shortgpt", ratio=0.5),
    ],
)
def test_what_needs_a_language_model_is_refused(recipe):
    with pytest.raises(InputError, match="for language models"):
        sparsify_(made("Residual"), recipe, X)

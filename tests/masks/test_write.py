import pytest
import torch

from secateur.calibrate.stream import StreamSettings
from secateur.core.pattern import NM
from secateur.masks.write import refitted
from secateur.run.prune import prune
from secateur.run.recipe import Recipe
from secateur.score.magnitude import Magnitude
from secateur.solve.refit import Refit
from secateur.storage.open_model import open_model
from secateur.storage.source import Source, load_model


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_refit_on_known_masks_is_the_solver_on_the_same_masks(family, saved, ids, tmp_path):
    source = Source(saved(family))
    opened = open_model(source)
    dense = load_model(source, torch.float32)
    keep = {layer.name: NM().keep(_matrix(dense, layer).abs(), 0.5) for layer in opened.structure.layers}
    new = refitted(opened, keep, ids, StreamSettings(), steps=60)
    solver = Refit(score=Magnitude(), damp=1e-4, steps=60)
    prune(saved(family), Recipe(method=solver, pattern="2:4"), tmp_path / "out", ids=ids)
    model = load_model(Source(tmp_path / "out"), torch.float32)
    for layer in opened.structure.layers:
        assert torch.allclose(new[layer.name], _matrix(model, layer), atol=2e-4), layer.name
        assert not new[layer.name][~keep[layer.name]].any()


def _matrix(model, layer):
    weight = model.get_submodule(layer.name).weight.detach()
    return weight.T if layer.transposed else weight

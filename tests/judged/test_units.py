import pytest
import torch
from torch.nn.functional import cross_entropy

from secateur.run.allocate import survey_model
from secateur.run.recipe import Recipe


def test_a_judged_model_of_units_is_the_model_without_them(saved, ids):
    recipe = Recipe(method="slimgpt", ratio=0.3, allocator={"name": "auto"})
    surveyed = survey_model(saved("llama"), recipe, ids=ids)
    judge = surveyed.problem.judge
    judge.loss(dict.fromkeys(judge.layers, 0.0), "dense")
    assert all(torch.equal(layer.weight, judge.dense[name]) for name, layer in judge.layers.items())
    uniform = judge.loss(dict.fromkeys(surveyed.problem.layers, 0.3), "uniform")
    targets = judge.targets(dict.fromkeys(surveyed.problem.layers, 0.3))
    assert set(targets) == set(judge.layers)
    for name, (pattern, ratio) in targets.items():
        gone = int((judge.layers[name].weight == 0).all(dim=0).sum())
        assert gone == round(ratio * judge.layers[name].weight.shape[1]) and pattern.unit >= 1
    with torch.no_grad():
        logits = judge.structure.model(judge.held, use_cache=False).logits[:, :-1]
    assert uniform == pytest.approx(float(cross_entropy(logits.flatten(0, 1), judge.held[:, 1:].flatten())), rel=1e-5)

import pytest
import torch
from torch.nn.functional import cross_entropy

from secateur.calibrate.statistic import InputRMS
from secateur.calibrate.stream import StreamSettings
from secateur.calibrate.survey import BlockReader, survey
from secateur.judged.masked import MaskedModel
from secateur.run.allocate import open_stream
from secateur.score.wanda import Wanda
from secateur.storage.open_model import open_model
from secateur.storage.source import Source, open_whole


@pytest.fixture
def masked(saved, ids):
    source = Source(saved("llama"))
    opened = open_model(source)
    with open_stream(opened.structure, StreamSettings(), ids) as stream:
        found = survey(
            stream,
            opened,
            BlockReader((InputRMS,), lambda view: {name: view.stats[name][InputRMS].value for name in view.weights}),
            lambda done, total: None,
        )
    norms = {name: norm for block in found.values() for name, norm in block.items()}
    return MaskedModel(open_whole(source), norms, (ids, ids[:1])), norms


def loss_of(model, ids):
    logits = model(ids, use_cache=False).logits[:, :-1]
    return float(cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()))


def test_masks_are_wandas_and_nothing_is_lost_by_masking_anew(masked):
    judge, norms = masked
    name = next(iter(judge.layers))
    judge.mask_(dict.fromkeys(judge.layers, 0.75))
    judge.mask_({name: 0.5})
    layer = judge.layers[name]
    score = judge.dense[name].abs() * norms[name]
    kept = score >= score.sort(dim=1).values[:, score.shape[1] // 2 : score.shape[1] // 2 + 1]
    assert torch.equal(layer.weight != 0, kept) and Wanda().needs == (InputRMS,)
    others = [each for each in judge.layers if each != name]
    assert all(torch.equal(judge.layers[each].weight, judge.dense[each]) for each in others)


def test_the_loss_is_the_mean_of_the_held_out_windows_and_is_noted(masked):
    judge, _ = masked
    ratios = dict.fromkeys(judge.layers, 0.5)
    found = judge.loss(ratios, "half")
    with torch.no_grad():
        assert found == pytest.approx(loss_of(judge.structure.model, judge.held), rel=1e-5)
    assert judge.told == {"half": found}


def test_first_order_prices_are_directional_derivatives(masked):
    judge, _ = masked
    ratios = dict.fromkeys(judge.layers, 0.5)
    moves = (-0.25, 0.0, 0.25)
    prices = judge.prices(ratios, moves)
    assert all(own[1] == 0 for own in prices.values())
    judge.structure.model.requires_grad_(False)
    for name in list(judge.layers)[:3]:
        for place in (0, 2):
            change = judge._change(name, 0.5, moves[place])
            layer = judge.layers[name]

            def along(step, layer=layer, change=change):
                judge.mask_(ratios)
                layer.set_weight(layer.weight + step * change)
                with torch.no_grad():
                    return loss_of(judge.structure.model.double(), judge.ids)

            slope = (along(1e-3) - along(-1e-3)) / 2e-3
            judge.structure.model.float()
            # the second order is never below zero, and small beside nothing here
            assert prices[name][place] >= slope - 0.1 * abs(slope) - 1e-5


def test_second_order_prices_are_outputs_squares_by_their_curvature(masked):
    judge, _ = masked
    name = next(iter(judge.layers))
    ratios = dict.fromkeys(judge.layers, 0.5)
    near, far = (judge.prices(ratios, (move,))[name][0] for move in (0.25, 0.5))
    assert near != far and all(abs(value) < 10 for value in (near, far))

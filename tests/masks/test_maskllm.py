import itertools
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from conftest import tiny_model
from secateur.adapt.layer import Layer
from secateur.adapt.structure import describe
from secateur.core.errors import InputError, PatternError
from secateur.core.pattern import NM
from secateur.masks.maskllm import LearnedMasks, MaskedBlock, MaskedTokens, MaskSettings
from secateur.train.reconstruct import block_error

TOY = MaskSettings(steps=400, rate=0.05, sharpness=(5.0, 100.0), temperature=(2.0, 0.1), teaching=0.0, pull=0.0)


def linear(rows=2, columns=8, seed=0):
    stream = torch.Generator().manual_seed(seed)
    made = nn.Linear(columns, rows, bias=False)
    made.weight.data = torch.randn(rows, columns, generator=stream)
    made.requires_grad_(False)
    return made, torch.randn(64, columns, generator=stream) @ torch.randn(columns, columns, generator=stream)


def test_training_finds_the_best_mask_of_all_from_a_wrong_prior():
    ranks = []
    for seed in range(12):
        module, inputs = linear(rows=1, seed=seed)
        outputs = inputs @ module.weight.T
        settings = replace(TOY, seed=seed)
        table = LearnedMasks([Layer("toy", module)], settings).candidates
        keeps = [table.keep(torch.tensor([pair])) for pair in itertools.product(range(6), repeat=2)]
        keeps.sort(key=lambda keep: float((inputs @ (module.weight * keep).T - outputs).square().mean()))
        learned = LearnedMasks([Layer("toy", module)], settings, {"toy": keeps[18]})
        fit(learned, TOY.steps, lambda f=module, x=inputs, y=outputs: (f(x) - y).square().mean() / y.square().mean())
        ranks.append(next(rank for rank, keep in enumerate(keeps) if torch.equal(keep, learned.keep()["toy"])))
    assert sum(rank == 0 for rank in ranks) >= 10 and max(ranks) <= 3, ranks


def fit(masks, steps, loss):
    def objective(batch, step):
        masks.step = step
        return loss()

    loop = masks.loop(objective)
    with masks.attached():
        for _ in range(steps):
            loop.step(None)


def test_a_prior_without_training_is_given_back_and_weights_stay():
    module, _ = linear(rows=5, columns=16)
    before = module.weight.clone()
    numbers = torch.randint(6, (5, 4), generator=torch.Generator().manual_seed(3))
    masks = LearnedMasks([Layer("toy", module)], MaskSettings())
    prior = {"toy": masks.candidates.keep(numbers)}
    masks = LearnedMasks([Layer("toy", module)], MaskSettings(strength=100.0, noise=0.01), prior)
    assert torch.equal(masks.keep()["toy"], prior["toy"]) and masks.certainty() > 0.99
    with masks.attached(), masks.settled():
        x = torch.randn(3, 16, generator=torch.Generator().manual_seed(4))
        assert torch.allclose(module(x), x @ (before * prior["toy"]).T, atol=1e-6)
    assert torch.equal(module.weight, before) and "forward" not in vars(module)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_model_trains_its_masks_alone_and_its_own_dense_weights_teach(family):
    model = tiny_model(family).eval().requires_grad_(False)
    structure = describe(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings = MaskSettings(steps=6, batch=2, length=8, rate=0.05)
    prior = {layer.name: NM().keep(layer.weight.abs(), 0.5) for layer in structure.layers}
    masks = LearnedMasks(structure.layers, settings, prior)
    objective = MaskedTokens(model, masks, half=False)
    ids = torch.randint(3, 99, (2, 8), generator=torch.Generator().manual_seed(5))
    dense = model(ids).logits
    loop, start = masks.loop(objective), {name: own.detach().clone() for name, own in masks.logits.items()}
    with masks.attached():
        for _ in range(settings.steps):
            loop.step(ids)
        with masks.whole():
            assert torch.allclose(model(ids).logits, dense, atol=1e-6)
        with masks.settled():
            assert not torch.allclose(model(ids).logits, dense, atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(not torch.equal(own, start[name]) for name, own in masks.logits.items())
    for layer in structure.layers:
        blocks = masks.keep()[layer.name].view(layer.weight.shape[0], -1, 4).sum(dim=2)
        assert (blocks == 2).all()


def test_gradient_of_a_masked_model_is_the_same_computed_again_in_the_backward_pass():
    model = tiny_model("llama").eval().requires_grad_(False)
    structure, ids = describe(model), torch.arange(3, 19).reshape(2, 8)
    settings, grads = MaskSettings(steps=4, length=8), []
    for again in (False, True):
        masks = LearnedMasks(structure.layers, settings)
        for block in structure.blocks if again else ():
            block.module.forward = partial(checkpoint, block.module.forward, use_reentrant=False)
        with masks.attached():
            MaskedTokens(model, masks, half=False)(ids, 2).backward()
        grads.append({name: own.grad for name, own in masks.logits.items()})
        for block in structure.blocks:
            vars(block.module).pop("forward", None)
    assert all(torch.allclose(grads[0][name], grads[1][name], atol=1e-6) for name in grads[0])


def test_pull_keeps_larger_weights():
    kept = []
    for pull in (0.0, 0.05):
        module, inputs = linear(rows=4, columns=16, seed=1)
        masks = LearnedMasks([Layer("toy", module)], replace(TOY, pull=pull, steps=60))
        fit(masks, 60, lambda f=module, x=inputs: 1e-3 * f(x).square().mean())
        kept.append(float((module.weight * masks.keep()["toy"]).square().sum()))
    assert kept[1] > kept[0]
    settings = MaskSettings(steps=11, pull=1e-3)
    assert [settings.draw(step, "a").pull for step in (0, 10)] == [1e-3, 0.0]
    first, last = settings.draw(0, "a"), settings.draw(10, "a")
    assert (first.sharpness, first.temperature, last.sharpness, last.temperature) == (200, 1, 500, pytest.approx(0.05))


def test_block_loss_is_relative_to_what_the_block_adds():
    inputs, outputs = torch.zeros(1, 2, 3), torch.ones(1, 2, 3)
    assert float(block_error(inputs, inputs, outputs)) == 1 and float(block_error(outputs, inputs, outputs)) == 0
    module, x = linear(rows=8, columns=8)
    masks = LearnedMasks([Layer("toy", module)], MaskSettings(steps=3))
    with masks.attached():
        told = MaskedBlock(lambda hidden: module(hidden), masks, half=False)((x, x @ module.weight.T), 1)
    assert 0 < float(told.detach()) and told.requires_grad and masks.step == 1


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"length": 1}, {"rate": 0.0}, {"teaching": 2.0}, {"pull": -1.0}, {"temperature": (1.0, 0.0)}],
)
def test_settings_outside_their_range_are_refused(wrong):
    with pytest.raises(InputError, match="masks need"):
        MaskSettings(**wrong)


def test_widths_that_are_no_multiple_and_priors_of_another_pattern_are_refused():
    module, _ = linear(columns=6)
    with pytest.raises(PatternError, match="multiple of 4"):
        LearnedMasks([Layer("toy", module)], MaskSettings())
    module, _ = linear(columns=8)
    with pytest.raises(PatternError, match="do not keep 2 of 4"):
        LearnedMasks([Layer("toy", module)], MaskSettings(), {"toy": torch.ones(2, 8, dtype=torch.bool)})

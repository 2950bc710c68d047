import pytest
import torch

from conftest import CONFIGS
from secateur.adapt.structure import describe
from secateur.core.errors import InputError, NumericalError
from secateur.storage.source import Source, load_model
from secateur.train.recover import Trainer, Training


def halved(folder):
    model = load_model(Source(folder))
    for layer in describe(model).layers:
        weight = layer.weight.clone()
        weight[:, ::2] = 0
        layer.set_weight(weight)
    return model


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("rank", [0, 2])
def test_training_lowers_the_loss_and_keeps_zeros_in_every_family(family, rank, saved, ids):
    model = halved(saved(family))
    trainer = Trainer(describe(model), Training(steps=12, rank=rank, rate=0.01))
    losses = [trainer.loop.step(ids) for _ in range(12)]
    assert losses[-1] < losses[0]
    trainer.changes.settle()
    assert all(not layer.weight[:, ::2].any() and layer.weight[:, 1::2].any() for layer in describe(model).layers)


def test_only_layers_of_blocks_change(saved, ids):
    model, before = halved(saved("llama")), halved(saved("llama")).state_dict()
    trainer = Trainer(describe(model), Training(steps=2))
    trainer.loop.step(ids)
    trained = trainer.changes.settle()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == (name.removesuffix(".weight") not in trained), name


@pytest.mark.parametrize("rank", [0, 2])
def test_a_state_taken_up_goes_on_with_the_same_bits(rank, saved, ids):
    training = Training(steps=4, rank=rank)
    straight, first, second = (Trainer(describe(halved(saved("llama"))), training) for _ in range(3))
    for _ in range(4):
        straight.loop.step(ids)
    for _ in range(2):
        first.loop.step(ids)
    second.loop.load_state(first.loop.state(), first.loop.log)
    for _ in range(2, 4):
        second.loop.step(ids)
    after = second.changes.settle()
    assert all(torch.equal(value, after[name]) for name, value in straight.changes.settle().items())


def test_a_teacher_pulls_towards_its_outputs(saved, ids):
    teacher = load_model(Source(saved("llama")))

    def distance(model):
        with torch.no_grad():
            return float((model(ids).logits - teacher(ids).logits).square().mean())

    model = halved(saved("llama"))
    before = distance(model)
    trainer = Trainer(describe(model), Training(steps=20, rate=0.005, teaching=1.0), teacher)
    for _ in range(20):
        trainer.loop.step(ids)
    assert distance(model) < 0.8 * before


def test_a_teacher_that_is_the_model_itself_has_nothing_to_say(saved, ids):
    trainer = Trainer(
        describe(load_model(Source(saved("llama")))), Training(teaching=1.0), load_model(Source(saved("llama")))
    )
    assert trainer.loop.step(ids) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("field", [{"steps": 0}, {"length": 1}, {"rank": -1}, {"rate": 0.0}, {"teaching": 2.0}])
def test_impossible_settings_are_refused(field):
    with pytest.raises(InputError, match="recover needs"):
        Training(**field)


def test_a_loss_that_explodes_is_an_error(saved, ids):
    model = load_model(Source(saved("llama")))
    trainer = Trainer(describe(model), Training())
    model.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(NumericalError, match="smaller rate"):
        trainer.loop.step(ids)


def test_a_teacher_of_another_vocabulary_is_refused(saved):
    teacher = load_model(Source(saved("llama")))
    teacher.config.vocab_size = 7
    with pytest.raises(InputError, match="teacher has 7 tokens"):
        Trainer(describe(load_model(Source(saved("llama")))), Training(), teacher)

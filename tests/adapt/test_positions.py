import pytest
import torch
from transformers import LlamaConfig

from conftest import CONFIGS, TASK_CONFIGS, task_model, tiny_model
from secateur.adapt.positions import check_ids, check_length, default_length, max_length
from secateur.core.errors import InputError

SOUND = ("Wav2Vec2", "Hubert", "Data2VecAudio", "Whisper")
TEXT = [name for name in TASK_CONFIGS if "Image" not in name and not name.startswith(SOUND)]


def made(name):
    return tiny_model(name) if name in CONFIGS else task_model(name)


def call(model, length):
    ids = torch.full((1, length), 7)
    more = {"labels": ids[:, :2]} if model.config.is_encoder_decoder else {}
    return model(input_ids=ids, **more)


@pytest.mark.parametrize("name", [*CONFIGS, *TEXT])
def test_the_longest_text_is_the_longest_the_model_computes(name):
    model = made(name)
    if name.startswith(("Roberta", "XLM")):
        model = type(model)(type(model.config)(**{**TASK_CONFIGS[name], "pad_token_id": 3})).eval()
    longest = max_length(model.config)
    if longest is None:
        call(model, 200)
        check_length(10**9, model.config)
        return
    call(model, longest)
    check_length(longest, model.config)
    with pytest.raises((IndexError, RuntimeError)):
        call(model, longest + 1)
    with pytest.raises(InputError, match=rf"{longest + 1} tokens are longer than the {longest} positions"):
        check_ids(torch.zeros(2, longest + 1, dtype=torch.long), model.config)


@pytest.mark.parametrize("wrong", [-1, 99, 10**6])
def test_ids_outside_the_vocabulary_are_named(wrong):
    config = tiny_model("gpt2").config
    check_ids(torch.tensor([[0, 98]]), config)
    with pytest.raises(InputError, match=rf"data: token id {wrong} is outside the model's vocabulary of 99, 0 to 98"):
        check_ids(torch.tensor([[3, wrong]]), config, "data")


def test_the_default_is_what_the_model_was_made_for():
    assert default_length(tiny_model("gpt2").config) == 64
    assert default_length(tiny_model("gpt2").config, 16) == 16
    assert default_length(LlamaConfig(max_position_embeddings=8192)) == 1024
    assert default_length(tiny_model("bloom").config) == 1024  # no table and no number: ALiBi

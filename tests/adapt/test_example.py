import pytest
import torch
import transformers

from conftest import TASK_CONFIGS, task_batch, task_model
from secateur.adapt.example import example_batch, outputs_of, picture_shape
from task_cases import bert


@pytest.mark.parametrize("name", TASK_CONFIGS)
def test_an_example_fits_the_model_and_is_the_same_every_time(name):
    model = task_model(name)
    first, second = example_batch(model, 5), example_batch(model, 5)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert torch.isfinite(outputs_of(model, first)).all()


@pytest.mark.parametrize("kind", ["QuestionAnswering", "MultipleChoice", "TokenClassification"])
def test_every_head_of_bert_is_called_and_its_outputs_are_one_tensor(kind):
    model = bert(getattr(transformers, f"BertFor{kind}"))
    batch = example_batch(model, 5)
    out = model(**batch)
    found = outputs_of(model, batch | {"labels": torch.zeros(2), "targets": torch.zeros(2)})
    expected = torch.stack([out.start_logits, out.end_logits], dim=-1) if "start_logits" in out else out.logits
    assert torch.equal(found, expected) and len(found) == 2


def test_an_encoder_gives_hidden_states_and_a_decoder_reads_labels():
    model = bert(transformers.BertModel)
    assert outputs_of(model, example_batch(model, 5)).shape == (2, 5, 32)
    model = task_model("BartForConditionalGeneration")
    batch = task_batch(model)
    assert torch.equal(outputs_of(model, batch), model(**batch).logits)


def test_pictures_have_the_size_of_the_vision_part():
    vision = transformers.CLIPConfig(vision_config={"image_size": 32, "num_channels": 1})
    assert picture_shape(vision) == (1, 32, 32)
    assert picture_shape(transformers.PvtConfig(image_size=[16, 8])) == (3, 16, 8)

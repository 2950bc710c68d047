import numpy as np
import pytest
import torch
import transformers

from conftest import task_batch, task_model, tiny_model
from secateur.adapt.example import example_batch, outputs_of
from secateur.export.onnx import write_forward_onnx, write_onnx
from task_cases import bert

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
@pytest.mark.filterwarnings("ignore")
def test_onnx_runtime_gives_the_same_logits_step_by_step(family, tmp_path):
    model = tiny_model(family)
    write_onnx(model, tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    ids = torch.randint(3, 99, (3, 9), generator=torch.Generator().manual_seed(0))
    past = {
        item.name: np.zeros((3, 4 if family != "llama" else 2, 0, 8), np.float32) for item in session.get_inputs()[1:]
    }
    logits = []
    for part in (ids[:, :6], ids[:, 6:7], ids[:, 7:]):
        found = session.run(None, {"input_ids": part.numpy(), **past})
        logits.append(found[0])
        past = dict(zip(past, found[1:], strict=True))
    expected = model(ids).logits.detach().numpy()
    assert np.abs(np.concatenate(logits, axis=1) - expected).max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["RobertaForSequenceClassification", "ViTForImageClassification", "MarianMTModel", "T5ForConditionalGeneration"],
)
@pytest.mark.filterwarnings("ignore")
def test_one_forward_pass_of_any_model_for_other_sizes(name, tmp_path):
    model = task_model(name)
    write_forward_onnx(model, example_batch(model), tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    batch = task_batch(model)
    inputs = {"decoder_input_ids" if key == "labels" else key: value for key, value in batch.items()}
    (got,) = session.run(None, {key: value.numpy() for key, value in inputs.items()})
    assert np.abs(got - model(**inputs).logits.numpy()).max() < 1e-3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["QuestionAnswering", "MultipleChoice"])
def test_questions_and_choices_are_read_at_other_sizes(kind, tmp_path):
    model = bert(getattr(transformers, f"BertFor{kind}"))
    write_forward_onnx(model, example_batch(model), tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    shape = (3, 4, 9) if kind == "MultipleChoice" else (3, 9)
    ids = torch.randint(3, 99, shape, generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    found = np.stack(session.run(None, {key: value.numpy() for key, value in batch.items()}), axis=-1)
    expected = outputs_of(model, batch).numpy()
    assert np.abs(found.reshape(expected.shape) - expected).max() < 1e-4

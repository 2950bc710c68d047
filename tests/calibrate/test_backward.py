import pytest
import torch
import transformers
from transformers import AutoModelForSequenceClassification

from conftest import tiny_model
from secateur.adapt.structure import describe
from secateur.calibrate.backward import gather_backward, sample_loss, split_needs, stored, unstored
from secateur.calibrate.gradient import Gradient
from secateur.calibrate.sensitivity import Sensitivity
from secateur.calibrate.statistic import Gram, InputRMS
from secateur.core.errors import ModelError
from secateur.infer.describe import infer
from tiny_decoders import batch, tiny_decoder


def test_kinds_are_told_apart_by_what_they_are():
    assert split_needs((Gram, Gradient, InputRMS, Sensitivity)) == ([Gram, InputRMS], [Gradient, Sensitivity])


def test_kinds_gathered_together_are_those_gathered_alone(ids):
    structure = describe(tiny_model("llama"))
    both = gather_backward(structure, ids, [Gradient, Sensitivity])
    for kind in (Gradient, Sensitivity):
        alone = gather_backward(structure, ids, [kind])
        assert all(torch.equal(parts[kind].value, alone[name][kind].value) for name, parts in both.items())
    assert both.keys() == {layer.name for layer in structure.layers}
    assert not any(parameter.requires_grad for parameter in structure.model.parameters())


@pytest.mark.parametrize("kind", [Gradient, Sensitivity])
def test_what_is_stored_is_read_again(kind, ids):
    parts = next(iter(gather_backward(describe(tiny_model("gpt2")), ids, [kind]).values()))
    again = unstored([kind], *stored(parts), torch.device("cpu"))
    assert torch.equal(again[kind].value, parts[kind].value)


def test_inputs_add_nothing():
    statistic = Gradient(torch.ones(2, 2), 1)
    statistic.update(torch.ones(3, 2))
    assert torch.equal(statistic.value, torch.ones(2, 2))


@pytest.mark.parametrize("name", ["bert", "albert"])
def test_a_classifier_gives_the_gradient_of_its_own_likeliest_answer(name):
    model = tiny_decoder(name, AutoModelForSequenceClassification)
    ids = batch(3)
    found = gather_backward(infer(model), ids, [Gradient])
    weights = {layer: model.get_parameter(f"{layer}.weight").requires_grad_(True) for layer in found}
    expected = {layer: torch.zeros_like(weight) for layer, weight in weights.items()}
    for sample in ids.split(1):
        logits = model(sample).logits
        loss = -torch.log_softmax(logits, dim=-1).max()
        for layer, slope in zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True):
            expected[layer] += slope
    for layer, want in expected.items():
        assert torch.allclose(found[layer][Gradient].value, want, atol=1e-6) and want.abs().max() > 0


@pytest.mark.parametrize("kind", ["AutoModel", "AutoModelForQuestionAnswering"])
def test_a_model_that_puts_out_no_classes_has_no_loss(kind):
    model = tiny_decoder("bert", getattr(transformers, kind))
    with pytest.raises(ModelError, match="puts out no classes"):
        gather_backward(infer(model), batch(2), [Gradient])


def test_neither_has_a_regression():
    model = tiny_decoder("bert", AutoModelForSequenceClassification)
    model.classifier = torch.nn.Linear(model.config.hidden_size, 1)
    with pytest.raises(ModelError, match="puts out no classes"):
        gather_backward(infer(model), batch(2), [Gradient])


def test_several_labels_have_an_answer_each():
    model = tiny_decoder("bert", AutoModelForSequenceClassification)
    model.config.problem_type = "multi_label_classification"
    ids = batch(1)
    logits = model(ids).logits[0]
    expected = torch.nn.functional.softplus(-logits.abs()).sum()  # of every label, as it is answered
    assert torch.allclose(sample_loss(model, ids, "sum"), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "said"),
    [("AutoModelForMultipleChoice", "cannot be asked"), ("AutoModelForPreTraining", "puts out no classes")],
)
def test_answers_that_are_not_one_class_each_are_refused(kind, said):
    name = "electra" if kind == "AutoModelForPreTraining" else "bert"
    with pytest.raises(ModelError, match=said):
        sample_loss(tiny_decoder(name, getattr(transformers, kind)), batch(1), "sum")

import pytest
import torch

from conftest import CONFIGS, TASK_CONFIGS, task_batch, task_model, tiny_model
from secateur.adapt.structure import describe
from secateur.core.errors import CalibrationError
from secateur.score.gates import gate_gradients, gated, query_positions

DOUBLE = {
    "bert",
    "roberta",
    "xlm-roberta",
    "electra",
    "distilbert",
    "vit",
    "deit",
    "bart",
    "mbart",
    "marian",
    "gpt2",
    "opt",
}


def loss(model, batch):
    """Any smooth function of the outputs, summed over samples."""
    inputs = {name: value for name, value in batch.items() if name != "labels" or model.config.is_encoder_decoder}
    logits = model(**inputs).logits
    return logits.double().tanh().flatten(1).mean(1).sum() * 100


def ones(found):
    return [torch.ones(attention.heads, dtype=torch.float64) for attention in found]


def shifted(gates, place, head, by):
    made = [gate.clone() for gate in gates]
    made[place][head] += by
    return made


def check_against_differences(model, batch, gates=None):
    """To 1e-6 in float64; families whose norms or softmax compute in float32 allow less."""
    model = model.double()
    batch = {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}
    step, tolerance = (1e-4, 1e-6) if model.config.model_type in DOUBLE else (1e-3, 5e-3)
    found = describe(model).attentions
    gates = gates or ones(found)
    got = gate_gradients(model, found, [batch], loss, gates=gates, level="example")
    for place, attention in enumerate(found):
        for head in range(0, attention.heads, 2):
            ends = []
            for by in (step, -step):
                with gated(found, shifted(gates, place, head, by)):
                    ends.append(float(loss(model, batch)))
            assert float(got[place][head]) == pytest.approx(
                abs(ends[0] - ends[1]) / (2 * step), rel=tolerance, abs=tolerance
            )


@pytest.mark.parametrize("name", TASK_CONFIGS)
def test_importance_is_the_slope_in_each_gate(name):
    model = task_model(name)
    batch = task_batch(model, samples=1)
    if "attention_mask" in batch:
        batch["attention_mask"] = torch.ones_like(batch["attention_mask"])
    if "pixel_values" in batch:
        batch["pixel_values"] = batch["pixel_values"].double()
    check_against_differences(model, batch)


@pytest.mark.parametrize("family", CONFIGS)
def test_decoders_have_the_same_slopes(family):
    batch = {"input_ids": torch.arange(3, 15)[None]}
    check_against_differences(tiny_model(family).requires_grad_(False), batch)


def test_slopes_are_taken_where_the_gates_stand():
    model = task_model("BertForSequenceClassification")
    gates = shifted(ones(describe(model).attentions), 1, 2, -1.0)
    batch = {name: value[:1] for name, value in task_batch(model).items()}
    check_against_differences(model, batch, gates)


@pytest.mark.parametrize("level", ["token", "example"])
@pytest.mark.parametrize("name", ["BertForSequenceClassification", "BartForConditionalGeneration"])
def test_padding_and_batching_change_nothing(name, level):
    model = task_model(name)
    batch = task_batch(model, samples=3)
    whole = gate_gradients(model, describe(model).attentions, [batch], loss, level=level)
    rows = [{key: value[row : row + 1] for key, value in batch.items()} for row in range(3)]
    rows[2] = rows[2] | {key: rows[2][key][:, :4] for key in ("input_ids", "attention_mask")}
    apart = gate_gradients(model, describe(model).attentions, rows, loss, level=level)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(whole, apart, strict=True))
    assert all(bool((row > 0).all()) for row in whole)


def test_a_tokens_absolute_values_are_no_less_than_an_examples():
    model = task_model("BertForSequenceClassification")
    batches = [task_batch(model, seed=seed) for seed in range(3)]
    found = describe(model).attentions
    token, example = (gate_gradients(model, found, batches, loss, level=x) for x in ("token", "example"))
    assert all(bool((a >= b * (1 - 1e-5) - 1e-9).all()) for a, b in zip(token, example, strict=True))


def test_a_silent_head_has_no_importance_and_twins_have_the_same():
    model = task_model("BertForSequenceClassification")
    found = describe(model).attentions
    first, second = found[0], found[1]
    first.output.module.weight[:, 8:16] = 0
    for layer in second.inputs:
        layer.module.weight[8:16] = layer.module.weight[:8]
        layer.module.bias[8:16] = layer.module.bias[:8]
    second.output.module.weight[:, 8:16] = second.output.module.weight[:, :8]
    got = gate_gradients(model, found, [task_batch(model)], loss)
    assert float(got[0][1]) == 0 and float(got[1][0]) == pytest.approx(float(got[1][1]), rel=1e-5)


def test_permuting_heads_permutes_importances():
    model, other = (task_model("DistilBertForSequenceClassification") for _ in range(2))
    order = torch.tensor([2, 0, 3, 1])
    rows = (order[:, None] * 8 + torch.arange(8)).flatten()
    moved = describe(other).attentions[1]
    for layer in moved.inputs:
        layer.module.weight.copy_(layer.module.weight[rows].clone())
        layer.module.bias.copy_(layer.module.bias[rows].clone())
    moved.output.module.weight.copy_(moved.output.module.weight[:, rows].clone())
    batch = task_batch(model)
    straight = gate_gradients(model, describe(model).attentions, [batch], loss)
    permuted = gate_gradients(other, describe(other).attentions, [batch], loss)
    assert torch.allclose(permuted[1], straight[1][order], rtol=1e-4)
    assert torch.allclose(permuted[0], straight[0], rtol=1e-4)


def test_gates_of_one_are_the_model_and_nothing_is_left_behind():
    model = task_model("BertForSequenceClassification").requires_grad_(True)
    found, batch = describe(model).attentions, task_batch(model)
    before = model(**batch).logits
    with gated(found, ones(found)):
        assert torch.equal(model(**batch).logits, before)
    with gated(found, [torch.zeros(4)] * 3):
        assert not torch.allclose(model(**batch).logits, before)
    gate_gradients(model, found, [batch], loss)
    assert torch.equal(model(**batch).logits, before)
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


def test_no_batch_and_nan_are_refused():
    model = task_model("BertForSequenceClassification")
    with pytest.raises(CalibrationError, match="no batch"):
        gate_gradients(model, describe(model).attentions, [], loss)
    with pytest.raises(CalibrationError, match="NaN"):
        gate_gradients(model, describe(model).attentions, [task_batch(model)], lambda m, b: loss(m, b) * float("nan"))


def test_positions_are_those_of_the_side_that_asks():
    mask, labels = torch.tensor([[1, 1, 0]]), torch.tensor([[5, -100, -100]])
    batch = {"attention_mask": mask, "labels": labels}
    both = query_positions(batch, {"encoder", "decoder", "cross"})
    assert torch.equal(both["encoder"], mask) and both["cross"].tolist() == [[True, False, False]]
    assert both["decoder"] is both["cross"]
    assert query_positions(batch, {"decoder"})["decoder"] is mask and query_positions({}, {"encoder"}) == {}

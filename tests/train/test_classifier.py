import pytest
import torch
import transformers

from conftest import task_model, tiny_tokenizer, words
from secateur.core.errors import InputError, NumericalError
from secateur.train.classifier import Finetuning, finetune_

EXAMPLES = [("w3 w4 w5", 0), ("w30 w31", 1), ("w4 w3", 0), ("w31 w30 w32", 1)] * 8


class Nowhere:
    """A store that keeps only the last state."""

    saved = None

    def load_state(self):
        return self.saved

    def save_state(self, tensors, log):
        copied = {name: value.clone() for name, value in tensors.items()}
        self.saved = copied, {name: list(values) for name, values in log.items()}


def tuned(plan, examples=EXAMPLES, name="Bert", **settings):
    model = task_model(f"{name}ForSequenceClassification")
    return model, finetune_(model, tiny_tokenizer(), examples, plan, **{"store": Nowhere(), **settings})


def test_a_classifier_learns_and_its_embeddings_stay():
    seen = []
    plan = Finetuning(epochs=40.0, batch=8, rate=3e-3)
    model, loss = tuned(plan, progress=lambda done, total: seen.append((done, total)))
    assert loss < 0.3 and seen[-1] == (160, 160)
    embeddings = task_model("BertForSequenceClassification").get_input_embeddings().weight
    assert torch.equal(model.get_input_embeddings().weight, embeddings)
    assert not model.training and not any(weight.requires_grad for weight in model.parameters())


def test_the_same_seed_gives_the_same_weights_and_the_global_stream_is_left_alone():
    before = torch.get_rng_state()
    task_model("BertForSequenceClassification")  # seeds the global stream
    seeded = torch.get_rng_state()
    first, _ = tuned(Finetuning(epochs=1.0, batch=8))
    assert torch.equal(torch.get_rng_state(), seeded)
    torch.set_rng_state(before)
    second, _ = tuned(Finetuning(epochs=1.0, batch=8))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


RAGGED = [(words(3 + row * 7 % 23, row), row % 2) for row in range(37)]


def reference(plan, name, folder):
    """The same training by transformers' own Trainer."""
    model, tokenizer = task_model(f"{name}ForSequenceClassification"), tiny_tokenizer()
    rows = [tokenizer(text) | {"labels": label} for text, label in RAGGED]
    for row in rows:
        row.pop("token_type_ids", None)
    model.requires_grad_(True).get_input_embeddings().requires_grad_(False)
    settings = transformers.TrainingArguments(
        output_dir=folder,
        num_train_epochs=plan.epochs,
        per_device_train_batch_size=plan.batch,
        learning_rate=plan.rate,
        warmup_steps=0.1,
        weight_decay=0.01,
        seed=plan.seed,
        train_sampling_strategy="group_by_length",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        use_cpu=True,
        optim="adamw_torch_fused",
    )
    pad = transformers.DataCollatorWithPadding(tokenizer)
    transformers.Trainer(model=model, args=settings, train_dataset=rows, data_collator=pad).train()
    return model


@pytest.mark.skipif(
    "train_sampling_strategy" not in transformers.TrainingArguments.__dataclass_fields__,
    reason="transformers before 5.2 names the option otherwise",
)
@pytest.mark.parametrize("name", ["Bert", "DistilBert", "Electra"])
def test_the_weights_are_those_of_transformers_own_trainer(name, tmp_path):
    plan = Finetuning(epochs=2.5, batch=8, rate=1e-3, seed=7)
    expected = reference(plan, name, tmp_path).state_dict()
    model, _ = tuned(plan, RAGGED, name)
    assert model.config.model_type == name.lower() and len(expected) > 50
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


def test_a_run_that_was_stopped_goes_on_with_the_same_bits(monkeypatch):
    monkeypatch.setattr("secateur.train.classifier._EVERY", 2)
    plan, store = Finetuning(epochs=2.0, batch=8, rate=1e-3), Nowhere()
    straight, loss = tuned(plan, RAGGED)

    def stop(done, total):
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned(plan, RAGGED, store=store, progress=stop)
    seen = []
    resumed, again = tuned(plan, RAGGED, store=store, progress=lambda done, total: seen.append(done))
    assert seen == [6, 7, 8, 9, 10] and again == loss  # 6 is inside the second epoch, whose order is restored
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), straight.parameters(), strict=True))


def test_a_loss_that_explodes_is_an_error():
    model = task_model("BertForSequenceClassification")
    model.classifier.bias.data.fill_(float("nan"))
    with pytest.raises(NumericalError, match="smaller rate"):
        finetune_(model, tiny_tokenizer(), EXAMPLES, Finetuning(), store=Nowhere())


@pytest.mark.parametrize("bad", [{"epochs": 0.0}, {"batch": 0}, {"rate": -1.0}, {"length": 1}])
def test_training_that_does_nothing_is_refused(bad):
    with pytest.raises(InputError, match="fine-tuning needs"):
        Finetuning(**bad)

import numpy as np
import pytest
import torch
import transformers
from torch.nn.functional import cross_entropy

from conftest import PICTURES, SMALL, task_batch, task_model, tiny_tokenizer
from secateur import load
from secateur.core.cut import Cut
from secateur.core.errors import InputError, ModelError, NumericalError, SecateurError
from secateur.core.files import read_document
from secateur.evaluate.agreement import verify_folders
from secateur.heads import prune as module
from secateur.heads.prune import prune_heads, save_without_heads
from secateur.heads.removal import RemovalOptions, plan_removal
from secateur.heads.task_model import DataOptions, open_task_model
from secateur.tasks.classification import Classification
from secateur.tasks.task import Share, score


def test_the_pruned_classifier_loads_and_scores_the_same(saved_task, labelled, tmp_path):
    task_model = open_task_model(saved_task("BertForSequenceClassification"))
    found = prune_heads(task_model, (str(labelled), None), tmp_path / "out", 0.5, RemovalOptions(reestimate=True))
    assert found["heads"] == 6 and found["parameters_before"] - found["parameters"] == 6 * (4 * 32 * 8 + 3 * 8)
    again = open_task_model(tmp_path / "out")
    task = again.read(str(labelled))
    assert score(task, again.model) == found["after"]
    assert read_document(tmp_path / "out" / "heads.json")["after"] == found["after"]
    assert Cut.load(tmp_path / "out" / "cut.json").kept
    ids = torch.tensor([tiny_tokenizer()("w3 w4").input_ids])
    auto = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    expected = task_model.model(ids).logits
    assert torch.allclose(auto(ids).logits, expected, atol=1e-6)
    assert torch.equal(load(tmp_path / "out")(ids).logits, auto(ids).logits)
    second = prune_heads(again, (str(labelled), None), tmp_path / "smaller", 0.5)
    assert second["heads_before"] == 6 and second["heads"] == 3


def test_a_translation_model_loses_cross_attention_only(saved_task, tmp_path):
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("w3 w4 w5\tw6 w7\nw8\tw9 w10\n")
    for name in ("MarianMTModel", "T5ForConditionalGeneration"):
        task_model = open_task_model(saved_task(name))
        plan = RemovalOptions(kinds=("cross",))
        found = prune_heads(
            task_model, (str(pairs), None), tmp_path / name, 1.0, plan, data_options=DataOptions(length=8)
        )
        listed = read_document(tmp_path / name / "config.json")["heads_per_layer"]
        assert listed["cross"] == [0, 0, 0] and set(listed["decoder"]) == {4} and found["metric"] == "bleu"
        again = open_task_model(tmp_path / name)
        task = again.read(str(pairs), DataOptions(length=8))
        assert task.translate(again.model) == task.translate(task_model.model)


@pytest.mark.parametrize("unit", ["kv_groups", "heads"])
def test_a_decoder_goes_by_its_own_config(saved, text, tmp_path, unit):
    task_model = open_task_model(saved("llama"), unit=unit)
    data_options = DataOptions(samples=4, length=16)
    found = prune_heads(task_model, (str(text), None), tmp_path / "out", 0.5, data_options=data_options)
    assert found["heads"] == 4
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = torch.arange(3, 15)[None]
    assert torch.allclose(loaded(ids).logits, task_model.model(ids).logits, atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_onnx_computes_the_same_for_other_sizes(saved_task, labelled, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    task_model = open_task_model(saved_task("BertForSequenceClassification"))
    prune_heads(task_model, (str(labelled), None), tmp_path / "out", 0.75, onnx=True)
    assert min(one.heads for one in task_model.attentions) == 0
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    ids = np.array([[3, 4, 5, 6, 7]])
    (got,) = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    assert np.allclose(got, task_model.model(torch.from_numpy(ids)).logits.numpy(), atol=1e-4)


def test_a_removal_that_computes_something_else_is_not_saved(saved_task, labelled, tmp_path, monkeypatch):
    task_model = open_task_model(saved_task("BertForSequenceClassification"))
    monkeypatch.setattr(
        module, "cut_heads_", lambda structure, sites, cut: structure.model.get_input_embeddings().weight.mul_(2)
    )
    with pytest.raises(NumericalError, match=r"encoder_table\.py"):
        prune_heads(task_model, (str(labelled), None), tmp_path / "out", 0.5)
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_when_it_cannot_be_done(saved_task, labelled, tmp_path):
    task_model = open_task_model(saved_task("BertForSequenceClassification"))
    for ratio, plan in ((1.5, RemovalOptions()), (0.9, RemovalOptions(min_heads=2))):
        with pytest.raises(SecateurError):
            prune_heads(task_model, (str(labelled), None), tmp_path / "out", ratio, plan)
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="already exists"):
        prune_heads(task_model, (str(labelled), None), tmp_path / "out", 0.5)


def test_a_model_of_pictures_is_scored_and_cut_from_batches(saved_task, tmp_path):
    task_model = open_task_model(saved_task("ViTForImageClassification"))
    batch = task_batch(task_model.model) | {"labels": torch.tensor([0, 1, 0])}
    task = Classification([batch])
    (keep,) = plan_removal(task_model, task, [0.5], RemovalOptions())
    tmp_path.joinpath("out").mkdir()
    found = save_without_heads(task_model, keep, tmp_path / "out", batch)
    again = load(tmp_path / "out")
    assert found["heads"] == 6 and torch.equal(again(**batch).logits, task_model.model(**batch).logits)
    with pytest.raises(ModelError, match=r"no preprocessor_config\.json"):
        task_model.read("pictures.tsv")


def test_samples_leave_the_test_file_whole_and_both_counts_are_kept(saved_task, labelled, tmp_path):
    task_model = open_task_model(saved_task("BertForSequenceClassification"))
    whole = score(task_model.read(str(labelled)), task_model.model)
    data = (str(labelled), str(labelled))
    found = prune_heads(task_model, data, tmp_path / "out", 0.5, data_options=DataOptions(samples=5))
    kept = read_document(tmp_path / "out" / "heads.json")
    assert (found["data_rows"], found["test_rows"]) == (kept["data_rows"], kept["test_rows"]) == (5, 24)
    assert kept["before"] == whole and kept["after"] == score(task_model.read(str(labelled)), task_model.model)


class Sounds(Share):
    """A task of one's own: sounds and what they say."""

    def loss(self, model, batch):
        return cross_entropy(model(**batch).logits.transpose(1, 2), batch["labels"], reduction="sum")

    @torch.no_grad()
    def parts(self, model):
        right = [(model(**batch).logits.argmax(-1) == batch["labels"]).double() for batch in self.batches]
        return np.concatenate([np.stack([one.sum(1), np.full(len(one), one.shape[1])], axis=1) for one in right])


def test_a_model_of_sounds_is_pruned_on_a_task_of_ones_own(tmp_path):
    model = task_model("WhisperForConditionalGeneration")
    model.save_pretrained(tmp_path / "dense")
    opened = open_task_model(tmp_path / "dense")
    with pytest.raises(InputError, match="reads input_features"):
        opened.read("a.tsv")
    task = Sounds([task_batch(model, seed=seed) for seed in range(3)])
    found = prune_heads(opened, (task, None), tmp_path / "out", 0.5)
    assert found["data"] == "Sounds" and found["heads"] == found["heads_before"] // 2 and found["data_rows"] == 9
    assert verify_folders(tmp_path / "dense", tmp_path / "out").logits < 1e-4
    again = open_task_model(tmp_path / "out")
    assert score(task, again.model) == found["after"] and {one.kind for one in again.attentions} == {
        "encoder",
        "decoder",
        "cross",
    }


def test_a_body_of_pictures_has_no_task(tmp_path):
    config = transformers.ViTConfig(**SMALL, **PICTURES)
    transformers.ViTModel(config).save_pretrained(tmp_path / "dense")
    with pytest.raises(InputError, match="has no head for task"):
        open_task_model(tmp_path / "dense")

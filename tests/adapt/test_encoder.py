import pytest
import torch

from conftest import task_batch, task_model
from secateur.adapt.encoder import lists_heads, settle_heads_
from secateur.adapt.structure import describe
from secateur.core.errors import ModelError


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "T5ForConditionalGeneration"])
def test_sizes_follow_the_counts_and_wrong_lengths_are_refused(name):
    structure = describe(task_model(name))
    kinds = dict.fromkeys(attention.kind for attention in structure.attentions)
    structure.model.config.heads_per_layer = {kind: [0, 3, 4] for kind in kinds}
    structure.resize_(structure.model.config)
    assert [attention.heads for attention in structure.attentions] == [0, 3, 4] * len(kinds)
    structure.model.config.heads_per_layer = {kind: [1] for kind in kinds}
    with pytest.raises(ModelError, match="heads of 1 encoder layers, not 3"):
        structure.resize_(structure.model.config)


def test_a_relative_bias_of_its_own_changes_nothing():
    model = task_model("T5ForConditionalGeneration")
    batch, blocks = task_batch(model), describe(model).blocks
    before = model(**batch).logits
    settle_heads_(blocks)
    settle_heads_(blocks)
    assert torch.allclose(model(**batch).logits, before, atol=1e-6)
    tables = [name for name, _ in model.named_parameters() if "relative_attention_bias" in name]
    assert len(tables) == 6  # three blocks of each stack


def test_counts_are_read_only_where_a_config_lists_them():
    structure = describe(task_model("BertForSequenceClassification"))
    config = structure.model.config
    assert not lists_heads(config)
    config.per_layer_config = {"1": {"num_attention_heads": 2}}
    assert lists_heads(config)
    structure.resize_(config)
    assert [attention.heads for attention in structure.attentions] == [4, 2, 4]


@pytest.mark.parametrize("name", ["BartForConditionalGeneration", "T5ForConditionalGeneration"])
def test_a_decoders_block_has_stages_of_both_its_attentions(name):
    blocks = describe(task_model(name)).blocks
    assert [stage.name for stage in blocks[-1].stages] == ["attention_in", "attention_out", "cross_in", "cross_out"]
    assert [attention.kind for attention in blocks[-1].attentions] == ["decoder", "cross"]

import pytest
import torch

from conftest import CONFIGS, TASK_CONFIGS, task_batch, task_model, tiny_model
from secateur.adapt.encoder_table import ENCODERS, attentions, gives_own_bias_, head_counts, resize_heads_
from secateur.core.errors import ModelError


@pytest.mark.parametrize("name", TASK_CONFIGS)
def test_every_attention_of_every_kind_is_found(name):
    found = attentions(task_model(name))
    kinds = [attention.kind for attention in found]
    stacks = ENCODERS[task_model(name).config.model_type]
    assert list(dict.fromkeys(kinds)) == [stack.kind for stack in stacks]
    assert all((attention.heads, attention.kv_heads, attention.width) == (4, 4, 8) for attention in found)
    assert len({attention.name for attention in found}) == len(found)


@pytest.mark.parametrize("family", CONFIGS)
def test_decoders_are_found_by_their_own_table(family):
    found = attentions(tiny_model(family))
    assert [attention.layer for attention in found] == [0, 1] and {one.kind for one in found} == {"decoder"}


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "T5ForConditionalGeneration"])
def test_sizes_follow_the_counts_and_wrong_lengths_are_refused(name):
    model = task_model(name)
    kinds = dict.fromkeys(attention.kind for attention in attentions(model))
    resize_heads_(model, {kind: [0, 3, 4] for kind in kinds})
    assert [attention.heads for attention in attentions(model)] == [0, 3, 4] * len(kinds)
    with pytest.raises(ModelError, match="heads of 1 encoder layers, not 3"):
        resize_heads_(model, {kind: [1] for kind in kinds})


def test_a_relative_bias_of_its_own_changes_nothing():
    model = task_model("T5ForConditionalGeneration")
    batch = task_batch(model)
    before = model(**batch).logits
    gives_own_bias_(model)
    gives_own_bias_(model)
    assert torch.allclose(model(**batch).logits, before, atol=1e-6)
    tables = [name for name, _ in model.named_parameters() if "relative_attention_bias" in name]
    assert len(tables) == 6  # three blocks of each stack


def test_counts_are_read_only_where_a_config_lists_them():
    model = task_model("BertForSequenceClassification")
    assert head_counts(model.config) is None
    model.config.per_layer_config = {"1": {"num_attention_heads": 2}}
    assert head_counts(model.config) == {"encoder": [4, 2, 4]}


def test_strangers_are_refused_with_a_way_out():
    model = task_model("BertForSequenceClassification")
    model.config.model_type = "unheard-of"
    with pytest.raises(ModelError, match=r"encoder_table\.py"):
        attentions(model)
    model.config.model_type = "vit"
    with pytest.raises(ModelError, match="does not look like"):
        attentions(model)

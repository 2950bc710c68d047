import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from conftest import CONFIGS, TASK_CONFIGS, task_model, tiny_model
from secateur.adapt.encoder_table import ENCODERS
from secateur.adapt.structure import describe, kind_of, known_kinds
from secateur.core.errors import ModelError


@pytest.mark.parametrize("family", CONFIGS)
def test_stages_name_every_matrix_of_a_block_once(family):
    for block in describe(tiny_model(family)).blocks:
        matrices = [name for name, tensor in block.tensors().items() if tensor.dim() == 2]
        assert sorted(f"{layer.name}.weight" for layer in block.layers) == sorted(matrices)
        assert [stage.name for stage in block.stages] == ["attention_in", "attention_out", "ffn_in", "ffn_out"]
        for stage in block.stages:
            assert len({layer.weight.shape[1] for layer in stage.layers}) == 1


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_weights_are_out_by_in_however_stored(family):
    layer = describe(tiny_model(family)).blocks[0].stages[2].layers[0]
    x = torch.randn(3, layer.weight.shape[1])
    bias = getattr(layer.module, "bias", None)
    assert torch.allclose(layer.module(x), torch.nn.functional.linear(x, layer.weight, bias), atol=1e-6)
    new = torch.randn_like(layer.weight)
    layer.set_weight(new)
    assert torch.equal(layer.weight, new)


def test_a_model_that_lacks_a_named_part_is_refused():
    model = tiny_model("llama")
    del model.model.layers[1].mlp.up_proj
    with pytest.raises(ModelError, match=r"does not look like its family 'llama'.*up_proj"):
        describe(model)


def test_a_matrix_that_no_stage_names_is_refused_by_its_name():
    config = AutoConfig.for_model("gpt2", **CONFIGS["gpt2"], add_cross_attention=True)
    with pytest.raises(ModelError, match=r"transformer\.h\.0\.crossattention\..* belongs to no stage"):
        describe(AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize("family", CONFIGS)
def test_the_body_alone_is_seen_like_the_whole(family):
    model = tiny_model(family)
    body = [layer.weight.shape for layer in describe(model.base_model).layers]
    assert body == [layer.weight.shape for layer in describe(model).layers]


@pytest.mark.parametrize("name", TASK_CONFIGS)
def test_every_attention_of_every_kind_is_found(name):
    structure = describe(task_model(name))
    kinds = [attention.kind for attention in structure.attentions]
    stacks = ENCODERS[structure.model.config.model_type]
    assert list(dict.fromkeys(kinds)) == [stack.kind for stack in stacks]
    heads = [2, 2, 4] if name.startswith("Swin") else [4] * len(kinds)
    assert [(attention.heads, attention.kv_heads) for attention in structure.attentions] == [(n, n) for n in heads]
    assert {attention.width for attention in structure.attentions} == {8}
    assert len({attention.name for attention in structure.attentions}) == len(structure.attentions)


@pytest.mark.parametrize("family", CONFIGS)
def test_decoders_are_found_by_their_own_table(family):
    attentions = describe(tiny_model(family)).attentions
    assert [attention.layer for attention in attentions] == [0, 1]
    assert {attention.kind for attention in attentions} == {"decoder"}


@pytest.mark.parametrize("groups", [{"num_hidden_groups": 2}, {"inner_group_num": 2}])
def test_layers_shared_in_groups_are_refused(groups):
    kind = transformers.AlbertForSequenceClassification
    model = kind(kind.config_class(**TASK_CONFIGS["AlbertForSequenceClassification"] | groups))
    with pytest.raises(ModelError, match="shares its layers in"):
        describe(model)


def test_rows_that_others_share_keep_their_heads():
    kind = transformers.DebertaV2ForSequenceClassification
    model = kind(kind.config_class(**TASK_CONFIGS["DebertaV2ForSequenceClassification"] | {"share_att_key": False}))
    assert all("pos_" in attention.no_heads for attention in describe(model).attentions)


def test_strangers_are_refused_with_a_way_out():
    model = task_model("BertForSequenceClassification")
    model.config.model_type = "unheard-of"
    assert kind_of(model.config) is None
    with pytest.raises(ModelError, match=r"encoder_table\.py"):
        describe(model)
    model.config.model_type = "vit"
    with pytest.raises(ModelError, match="does not look like"):
        describe(model)


def test_language_models_that_read_one_way_are_known_apart():
    assert "llama" in known_kinds(causal=True) and "bert" not in known_kinds(causal=True)
    assert {"llama", "bert", "t5"} <= set(known_kinds())

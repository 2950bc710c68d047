import pytest

from secateur.core.errors import ModelError
from secateur.experts.smaller import smaller_model
from secateur.infer.smaller import Part
from tiny_decoders import tiny_decoder


def test_what_is_cut_is_what_the_class_builds_smaller():
    model = tiny_decoder("deepseek_v3")
    smaller = smaller_model(model, model.config.to_dict(), 4, 3)
    names = {name.partition(".mlp.")[2] for name in smaller.parts}
    assert names == {"experts.gate_up_proj", "experts.down_proj", "gate.weight", "gate.e_score_correction_bias"}
    assert set(smaller.parts.values()) == {Part(0, (1,))}
    assert smaller.document["n_routed_experts"] == 3 and model.config.n_routed_experts == 4
    assert not any("layers.0." in name for name in smaller.parts)  # its first block is dense


def test_a_model_without_such_a_field_is_refused():
    model = tiny_decoder("gemma")
    with pytest.raises(ModelError, match="no field of the gemma config gives every layer 3 instead of 4 experts"):
        smaller_model(model, model.config.to_dict(), 4, 3)


def test_a_router_that_asks_for_more_experts_than_are_left_is_refused():
    model = tiny_decoder("mixtral")
    with pytest.raises(ModelError, match="cannot route tokens among 1 experts"):
        smaller_model(model, model.config.to_dict(), 4, 1)

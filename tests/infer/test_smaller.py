import pytest
import torch

from secateur.core.errors import ModelError
from secateur.infer.smaller import Part, changed, rebuilt, with_fields
from tiny_decoders import tiny_decoder


def test_runs_stand_one_after_another_and_what_is_behind_them_stays():
    part = Part(1, (2, 1))
    assert part.index(3).tolist() == [[0, 1, 6], [2, 3, 7], [4, 5, 8]]
    assert part.cut(torch.arange(11)[None], [0, 2], 3).tolist() == [[0, 1, 4, 5, 6, 8, 9, 10]]
    assert part.cut(torch.empty(1, 11, device="meta"), [0, 2], 3).shape == (1, 8)


def test_fields_are_changed_in_a_copy_at_any_depth():
    document = {"a": 1, "inner": {"b": 2}}
    assert with_fields(document, {("a",): 3, ("inner", "b"): 4, ("new", "c"): 5}) == {
        "a": 3,
        "inner": {"b": 4},
        "new": {"c": 5},
    }
    assert document == {"a": 1, "inner": {"b": 2}}


def test_what_a_smaller_class_has_less_of_is_named_with_its_dimension():
    model = tiny_decoder("gemma")
    small = rebuilt(with_fields(model.config.to_dict(), {("intermediate_size",): 80}), model)
    found = changed(model, small, 16)
    assert len(found) == 9
    assert found["model.layers.0.mlp.down_proj.weight"] == (1, 1)
    assert found["model.layers.0.mlp.up_proj.weight"] == (0, 1)
    assert all(value.device.type == "meta" for value in small.parameters())


def test_a_change_that_is_no_number_of_units_is_refused():
    model = tiny_decoder("gemma")
    small = rebuilt(with_fields(model.config.to_dict(), {("intermediate_size",): 81}), model)
    with pytest.raises(ModelError, match="and becomes"):
        changed(model, small, 16)

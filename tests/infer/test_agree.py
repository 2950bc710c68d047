import pytest
import torch

from secateur.infer.agree import agrees
from secateur.infer.describe import infer
from secateur.infer.smaller import rebuilt, with_fields
from secateur.infer.units import find_units
from tiny_decoders import tiny_decoder


@pytest.mark.parametrize(("wrong", "said"), [(False, ""), (True, "without some channels computes something else")])
def test_a_smaller_block_agrees_where_the_same_channels_go_and_not_otherwise(wrong, said):
    structure = infer(tiny_decoder("gemma"))
    (unit,) = find_units(structure.model, structure.blocks, "none")
    small = rebuilt(with_fields(structure.model.config.to_dict(), unit.values(80)), structure.model)
    kept = {site.name: tuple(range(80)) for _, site in unit.sites}
    others = {site: tuple(range(16, 96)) for site in kept}

    def cut(name, value):
        return unit.cut(name, value, others if wrong and "up_proj" in name else kept) if name in unit.parts else value

    before = {name: value.clone() for name, value in structure.model.state_dict().items()}
    why = agrees(structure.model, small, structure.blocks, unit.sites, cut, kept)
    assert (said in why) if said else why == ""
    assert all(torch.equal(value, before[name]) for name, value in structure.model.state_dict().items())
    assert all(value.device.type == "meta" for value in small.parameters())

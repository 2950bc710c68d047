import pytest

from conftest import CONFIGS, tiny_model
from secateur.adapt.structure import describe
from secateur.infer.describe import infer
from tiny_decoders import tiny_decoder


@pytest.mark.parametrize("name", CONFIGS)
def test_inference_agrees_with_the_table(name):
    model = tiny_model(name)
    table, inferred = describe(model), infer(model)
    assert [block.name for block in inferred.blocks] == [block.name for block in table.blocks]
    for known, found in zip(table.blocks, inferred.blocks, strict=True):
        stages = [sorted(layer.name for layer in stage.layers) for stage in known.stages]
        assert [sorted(layer.name for layer in stage.layers) for stage in found.stages] == stages
        assert {layer.name: layer.transposed for layer in found.layers} == {
            layer.name: layer.transposed for layer in known.layers
        }


def test_every_expert_has_stages_of_its_own_in_two_steps_and_the_router_none():
    block = infer(tiny_decoder("mixtral")).blocks[0]
    routed = [stage for stage in block.stages if stage.routed]
    assert [stage.layers[0].index for stage in routed] == [0, 1, 2, 3] * 2
    assert len({stage.step for stage in routed}) == 2
    assert not any("gate.weight" in layer.tensor for layer in block.layers)


def test_parallel_attention_and_ffn_read_one_tensor():
    block = infer(tiny_decoder("gptj")).blocks[0]
    first = [layer.name.rpartition(".")[2] for layer in block.stages[0].layers]
    assert sorted(first) == ["fc_in", "k_proj", "q_proj", "v_proj"]


def test_a_module_that_blocks_share_belongs_to_the_first():
    structure = infer(tiny_decoder("zamba"))
    names = [layer.tensor for layer in structure.layers]
    values = [id(structure.model.get_parameter(name)) for name in names]
    assert len(set(values)) == len(values)
    assert len(structure.blocks[1].layers) > len(structure.blocks[3].layers)

import torch

from secateur.calibrate.statistic import Gram, InputRMS, gather
from secateur.infer.cold import Cold, warm_
from secateur.infer.describe import infer
from secateur.infer.experts import expert_inputs
from tiny_decoders import tiny_decoder


def cold_stages(name):
    structure = infer(tiny_decoder(name))
    stages = [stage for stage in structure.blocks[0].stages if stage.routed]
    return structure, [(stage, gather((Gram, InputRMS))) for stage in stages]


def test_by_magnitude_every_input_counts_the_same():
    _, cold = cold_stages("mixtral")
    warm_(cold, Cold(by="magnitude"), lambda: None)
    for stage, own in cold:
        width = stage.layers[0].weight.shape[1]
        assert own.fallback == "magnitude"
        assert torch.allclose(own[Gram].value, torch.eye(width) * 2 / width)
        assert len(own[InputRMS].value.unique()) == 1


def test_by_layer_every_token_that_reaches_the_layer_counts():
    _, cold = cold_stages("mixtral")
    module = cold[0][0].layers[0].module
    x = torch.randn(7, module.down_proj.shape[1])
    warm_(cold, Cold(), lambda: module(x, torch.zeros(7, 2, dtype=torch.long), torch.ones(7, 2)))
    for stage, own in cold:
        layer = stage.layers[0]
        expected = expert_inputs(module, x, layer.index)[layer.parameter]
        assert own.fallback == "layer"
        assert torch.allclose(own[InputRMS].value, expected.square().mean(0).sqrt(), atol=1e-5)
    assert not module._forward_pre_hooks


def test_experts_outside_the_common_interface_go_by_magnitude():
    _, cold = cold_stages("llama4_text")
    warm_(cold, Cold(), lambda: None)
    assert {own.fallback for _, own in cold} == {"magnitude"}

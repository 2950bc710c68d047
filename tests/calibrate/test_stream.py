import pytest
import torch

from conftest import CONFIGS, tiny_model
from secateur.adapt.structure import describe
from secateur.calibrate.statistic import Gram, gather
from secateur.calibrate.stream import Stream, StreamSettings
from secateur.core.pattern import keep_highest


@torch.no_grad()
def seen(model, module, ids, what="input"):
    """What a plain forward pass of the whole model shows a module."""
    caught = []
    hook = module.register_forward_hook(lambda _m, x, y: caught.append(x[0] if what == "input" else y))
    model(ids, use_cache=False)
    hook.remove()
    return caught[0][0] if isinstance(caught[0], tuple) else caught[0]


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("batch_tokens", [16, 48])
def test_every_layer_sees_inputs_from_pruned_layers(family, batch_tokens, ids, tmp_path):
    model = tiny_model(family)
    structure = describe(model)
    settings = StreamSettings(batch_tokens, memory=2000, folder=tmp_path)
    with Stream(structure, ids, settings) as stream:
        check_stream(model, structure, stream, ids)
    assert not list(tmp_path.iterdir())
    assert all("forward" not in vars(module) for module in model.modules())


def check_stream(model, structure, stream, ids):
    stream.embed()
    checked = []

    def solve(layers, stats):
        for layer in layers:
            inputs = seen(model, layer.module, ids)
            expected = gather([Gram], inputs.reshape(-1, inputs.shape[-1]))[Gram].value
            assert torch.allclose(stats[Gram].value, expected, rtol=1e-3, atol=1e-4), layer.name
            checked.append(layer.name)
        for layer in layers:
            layer.set_weight(layer.weight * keep_highest(layer.weight.abs(), layer.weight.shape[1] // 2))

    for block in structure.blocks:
        stream.run(block, lambda layers: (Gram,), solve, last=False)
        expected = seen(model, block.module, ids, "output")
        assert torch.allclose(torch.cat(list(stream.hidden.all())), expected, rtol=1e-3, atol=1e-4)
    assert len(checked) == len(set(checked)) == 2 * len(structure.blocks[0].layers)


def test_the_last_block_is_not_run_further(ids):
    structure = describe(tiny_model("llama", blocks=1))
    stream = Stream(structure, ids, StreamSettings())
    stream.embed()
    before = [hidden.clone() for hidden in stream.hidden.all()]
    stream.run(structure.blocks[0], lambda layers: (Gram,), lambda layers, stats: None, last=True)
    assert all(torch.equal(a, b) for a, b in zip(before, stream.hidden.all(), strict=True))

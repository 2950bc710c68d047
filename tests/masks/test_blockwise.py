import torch

from conftest import tiny_model
from secateur.calibrate.stream import StreamSettings
from secateur.core.pattern import NM
from secateur.masks.blockwise import BlockTask, learn_blocks
from secateur.masks.maskllm import MaskSettings
from secateur.storage.open_model import open_model
from secateur.storage.run_folder import RunFolder
from secateur.storage.source import Source
from secateur.train.reconstruct import block_error


def test_the_first_blocks_error_is_that_of_the_model_itself(saved, ids, tmp_path):
    opened = open_model(Source(saved("llama")))
    model = tiny_model("llama").eval()
    prior = {
        layer.name: NM().keep(model.get_submodule(layer.name).weight.detach().abs(), 0.5)
        for layer in opened.structure.layers
    }
    folder = RunFolder(tmp_path / "out")
    folder.open({}, resume=False)
    task = BlockTask(MaskSettings(steps=2, rate=1e-9, length=ids.shape[1]), prior, StreamSettings(64), False)
    keep, reports = learn_blocks(opened, task, ids, folder, 0, lambda done, of: None)
    assert all(torch.equal(keep[name], mask) for name, mask in prior.items())
    batches = ids.split(max(1, 64 // ids.shape[1]))
    held = batches[-1] if len(batches) > 1 else batches[0]
    with torch.no_grad():
        inputs = model.model.embed_tokens(held)
        outputs = model.model(held, output_hidden_states=True).hidden_states[1]
        for name, mask in prior.items():
            model.get_submodule(name).weight.data *= mask
        made = model.model(held, output_hidden_states=True).hidden_states[1]
    expected = float(block_error(made, inputs, outputs))
    assert abs(reports[0]["prior"] - expected) < 1e-4 * expected

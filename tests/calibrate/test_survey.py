import pytest
import torch

from secateur.adapt.structure import describe
from secateur.calibrate.samples import BlockSamples, Samples
from secateur.calibrate.sensitivity import Sensitivity
from secateur.calibrate.statistic import InputRMS
from secateur.calibrate.stream import Stream, StreamSettings
from secateur.calibrate.survey import BlockReader, survey
from secateur.storage.open_model import open_model
from secateur.storage.source import Source, load_model


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "gpt_neox"])
def test_a_survey_sees_what_the_dense_model_computes(family, saved, ids):
    opened = open_model(Source(saved(family)))
    given = {opened.structure.layers[0].name: {Sensitivity: Sensitivity(torch.ones(2), 1)}}
    with Stream(opened.structure, ids, StreamSettings(batch_tokens=32)) as stream:
        reader = BlockReader((InputRMS,), lambda view: view, lambda: BlockSamples(Samples()))
        views = survey(stream, opened, reader, lambda a, b: None, given)
    model = load_model(Source(saved(family)), torch.float32)
    seen = {}
    for layer in describe(model).layers:
        layer.module.register_forward_pre_hook(lambda m, args, name=layer.name: seen.update({name: args[0]}))
    with torch.no_grad():
        hidden = model(ids, output_hidden_states=True).hidden_states
    for number, (block, view) in enumerate(views.items()):
        assert torch.allclose(view.watched, hidden[number].reshape(-1, hidden[0].shape[-1]), atol=1e-4)
        for name, weight in view.weights.items():
            norm = seen[name].flatten(0, -2).square().mean(dim=0).sqrt()
            assert name.startswith(block) and torch.allclose(view.stats[name][InputRMS].value, norm, atol=1e-4)
            assert weight.shape[1] == len(norm) and (Sensitivity in view.stats[name]) == (name in given)

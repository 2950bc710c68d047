import torch

from conftest import tiny_model
from secateur.adapt.structure import describe
from secateur.core.pattern import NM
from secateur.evaluate.perplexity import token_losses
from secateur.masks.maskllm import LearnedMasks, MaskSettings
from secateur.masks.whole import learn_whole
from secateur.storage.run_folder import RunFolder


def test_looks_tell_the_loss_of_the_model_under_its_likeliest_masks(tmp_path):
    structure = describe(tiny_model("llama").eval().requires_grad_(False))
    prior = {layer.name: NM().keep(layer.weight.abs(), 0.5) for layer in structure.layers}
    settings = MaskSettings(steps=4, batch=2, length=12, rate=0.02)
    stream = torch.Generator().manual_seed(0)
    ids, held = torch.randint(3, 99, (8, 12), generator=stream), torch.randint(3, 99, (3, 12), generator=stream)
    masks, folder = LearnedMasks(structure.layers, settings, prior), RunFolder(tmp_path / "out")
    folder.open({}, resume=False)
    keep, looks, losses = learn_whole(structure, masks, (ids, held), folder, (2, False), lambda *_: None)
    assert [look.step for look in looks] == [0, 2, 4] and len(losses) == 4
    best = min(looks, key=lambda look: look.held)
    for layer in structure.layers:
        layer.set_weight(layer.weight * keep[layer.name])
    assert abs(float(token_losses(structure.model, held).mean()) - best.held) < 1e-5
    assert looks[0].changed == 0 and 0 < looks[0].certainty < 1

import importlib.util

import pytest
import torch

from convnet.networks import made
from secateur.core.errors import InputError
from secateur.images.export import export_network, onnx_session
from secateur.images.prune import prune_channels_
from secateur.images.recipe import NetworkRecipe
from secateur.storage.network import Network, Preprocessing

READY = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript"))


def pruned(kind):
    network = Network(made(kind), kind, preprocessing=Preprocessing(size=8))
    done = prune_channels_(network.model, network.example, NetworkRecipe(method="l1", budget="0.8-params", least=0.05))
    return network.without(done.removal)


@pytest.mark.skipif(not READY, reason="the onnx extra is not installed")
@pytest.mark.parametrize("kind", ["Residual", "Gated"])
@torch.no_grad()
def test_onnx_runtime_computes_the_same_for_any_batch(kind, tmp_path):
    network = pruned(kind)
    path = export_network(network, tmp_path / "net.onnx")
    session = onnx_session(path)
    for batch in (1, 3):
        pixels = torch.rand(batch, 3, 8, 8)
        (got,) = session.run(None, {session.get_inputs()[0].name: pixels.numpy()})
        assert torch.allclose(torch.from_numpy(got), network.model(pixels), atol=1e-4)
    with pytest.raises(InputError, match="already exists"):
        export_network(network, path)


@pytest.mark.skipif(READY, reason="the onnx extra is installed")
def test_without_the_extra_it_is_named(tmp_path):
    with pytest.raises(InputError, match=r"secateur\[onnx\]"):
        export_network(Network(made("Plain"), "plain"), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())

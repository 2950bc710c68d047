"""Networks of timm and torchvision, with random weights: what is cut computes what is masked."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from secateur.convnet.structure import describe_channels
from secateur.core.cut import Cut
from secateur.storage.network import open_network

BESIDE = Path(sys.prefix) / "pictures"  # torchvision, where transformers does not find it: see docs/networks.md
FAST = ("timm:ghostnet_100", "timm:skresnet18", "torchvision:shufflenet_v2_x0_5", "timm:mixnet_s")
SLOW = (
    "timm:res2net50_26w_4s",
    "timm:edgenext_small",
    "timm:fastvit_t8",
    "timm:cspresnet50",
    "timm:inception_next_tiny",
    "timm:poolformer_s12",
    "timm:efficientvit_b0",
    "timm:hrnet_w18_small",
    "timm:mobilenetv3_small_100",
    "timm:rexnet_100",
    "timm:swin_tiny_patch4_window7_224",
    "torchvision:densenet121",
    "torchvision:inception_v3",
    "torchvision:regnet_y_400mf",
    "torchvision:resnet50",
    "torchvision:vit_b_16",
)


@pytest.fixture(autouse=True)
def torchvision(monkeypatch):
    if importlib.util.find_spec("timm") is None or not (BESIDE / "torchvision").exists():
        pytest.skip("timm, or torchvision in .venv/pictures, is not installed")
    monkeypatch.syspath_prepend(str(BESIDE))


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
@torch.no_grad()
def test_masked_and_shrunk_agree(name):
    network = open_network(name, weights="none")
    structure = describe_channels(network.model, network.example)
    before = sum(value.numel() for value in network.model.parameters())
    cut = Cut({site.name: tuple(range(0, site.count, 2)) for site in structure.sites})
    structure.mask_(cut)
    expected = network.model(network.example)
    structure.shrink_(cut)
    assert float((network.model(network.example) - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
    assert sum(value.numel() for value in network.model.parameters()) < 0.8 * before

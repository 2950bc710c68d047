"""Which networks can be cut at half of their channels: ours, verified, beside Torch-Pruning, each in its own process.

.venv/bin/python -m pip install --no-deps timm torch-pruning
.venv/bin/python -m pip install --no-deps --target .venv/pictures torchvision
PYTHONPATH=.venv/pictures .venv/bin/python benchmarks/networks.py
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TORCHVISION = (
    "alexnet vgg11 vgg16_bn resnet18 resnet34 resnet50 resnext50_32x4d wide_resnet50_2 squeezenet1_0 squeezenet1_1 "
    "densenet121 densenet169 inception_v3 googlenet shufflenet_v2_x0_5 shufflenet_v2_x1_0 mobilenet_v2 "
    "mobilenet_v3_small mobilenet_v3_large mnasnet0_5 mnasnet1_0 efficientnet_b0 efficientnet_b3 efficientnet_v2_s "
    "regnet_x_400mf regnet_y_400mf regnet_y_1_6gf convnext_tiny vit_b_16 swin_t swin_v2_t maxvit_t"
).split()
TIMM = (
    "resnet26d resnet50d seresnet50 skresnet18 ecaresnet26t gcresnet33ts resnest14d res2net50_26w_4s resnetv2_50 "
    "resnetv2_50x1_bit wide_resnet50_2 cspresnet50 cspdarknet53 darknet53 dla34 dpn68 densenet121 efficientnet_b0 "
    "efficientnet_lite0 tf_efficientnet_b0 tf_efficientnetv2_b0 mixnet_s tf_mixnet_s mnasnet_100 mobilenetv2_100 "
    "mobilenetv3_small_100 mobilenetv4_conv_small mobileone_s0 fbnetc_100 spnasnet_100 ghostnet_100 ghostnetv2_100 "
    "hardcorenas_a lcnet_050 tinynet_e semnasnet_075 hrnet_w18_small regnetx_004 regnety_008 repvgg_a0 rexnet_100 "
    "selecsls42b xception41 vovnet39a ese_vovnet19b_dw nfnet_l0 convnext_atto convnextv2_atto convmixer_768_32 "
    "poolformer_s12 poolformerv2_s12 caformer_s18 inception_next_tiny edgenext_small fastvit_t8 efficientvit_b0 "
    "efficientformer_l1 levit_128s mobilevit_xxs mobilevitv2_050 vit_tiny_patch16_224 deit_tiny_patch16_224 "
    "swin_tiny_patch4_window7_224 coat_lite_tiny crossvit_tiny_240 pvt_v2_b0 twins_svt_small visformer_tiny "
    "mixer_s32_224 gmlp_ti16_224 resmlp_12_224 repvit_m0_9 starnet_s1 hgnet_tiny hgnetv2_b0"
).split()
SECONDS = 300


def build(name: str) -> tuple[Any, Any]:
    """A network with random weights, and one input of its size."""
    import torch

    from secateur.storage.network import open_network

    network = open_network(name, weights="none")
    torch.set_num_threads(2)
    return network.model, network.example


def params_of(model: Any) -> int:
    """Parameters of a network."""
    return sum(value.numel() for value in model.parameters())


def ours(name: str) -> dict[str, Any]:
    """Cut half of every site's channels; the cut itself raises where masked and shrunk differ."""
    import torch

    from secateur.convnet.costs import costs
    from secateur.convnet.structure import describe_channels
    from secateur.core.cut import Cut

    model, example = build(name)
    started = time.perf_counter()
    structure = describe_channels(model, example)
    described = time.perf_counter() - started
    cut = Cut({site.name: tuple(range(0, site.count, 2)) for site in structure.sites})
    before, params = costs(structure), params_of(model)
    kept = costs(structure, {name: len(units) for name, units in cut.kept.items()})
    with torch.no_grad():
        structure.mask_(cut)
        expected = model(example)
        started = time.perf_counter()
        structure.shrink_(cut)
        seconds = described + time.perf_counter() - started
        got = model(example)
    expected, got = (leaf[0] if isinstance(leaf, tuple | list) else leaf for leaf in (expected, got))
    far = float((expected - got).abs().max() / expected.abs().max().clamp_min(1e-12))
    return {
        "macs": kept.macs / before.macs,
        "params": params_of(model) / params,
        "sites": len(structure.sites),
        "verified": far <= 1e-4,
        "difference": far,
        "seconds": seconds,
    }


def theirs(name: str) -> dict[str, Any]:
    """Torch-Pruning at the same ratio with its magnitude pruner, and its own counts."""
    import torch
    import torch_pruning

    model, example = build(name)
    params, started = params_of(model), time.perf_counter()
    heads = [
        module for module in model.modules() if isinstance(module, torch.nn.Linear) and module.out_features == 1000
    ]
    pruner = torch_pruning.pruner.MagnitudePruner(
        model, example, torch_pruning.importance.MagnitudeImportance(p=1), pruning_ratio=0.5, ignored_layers=heads
    )
    before, _ = torch_pruning.utils.count_ops_and_params(model, example)
    pruner.step()
    seconds = time.perf_counter() - started
    with torch.no_grad():
        model(example)
    after, _ = torch_pruning.utils.count_ops_and_params(model, example)
    return {"macs": after / before, "params": params_of(model) / params, "seconds": seconds}


def in_child(tool: str, name: str) -> dict[str, Any]:
    """One network by one tool in a process of its own: what hangs is ended."""
    command = [sys.executable, __file__, "--one", tool, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"no end after {SECONDS} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        result: dict[str, Any] = json.loads(lines[-1])
        return result
    return {"failed": (done.stderr.strip().splitlines() or ["killed"])[-1][:200]}


def main() -> None:
    """Every network by both tools; the table is written after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2)
    parser.add_argument("--names", nargs="*")
    parser.add_argument("--tools", nargs="*", default=["ours", "theirs"])
    parser.add_argument("--out", default="benchmarks/results/networks.json")
    chosen = parser.parse_args()
    if chosen.one:
        tool, name = chosen.one
        print(json.dumps({"ours": ours, "theirs": theirs}[tool](name)))
        return
    names = chosen.names or [f"torchvision:{name}" for name in TORCHVISION] + [f"timm:{name}" for name in TIMM]
    out = Path(chosen.out)
    results = json.loads(out.read_text()) if out.exists() else {}
    for name in names:
        for tool in chosen.tools:
            if tool not in results.setdefault(name, {}):
                results[name][tool] = in_child(tool, name)
                out.write_text(json.dumps(results, indent=1) + "\n")
        print(name, json.dumps(results[name]), flush=True)


if __name__ == "__main__":
    main()

"""Widths that are learned (S2HPruner) against one-shot pruning with fine-tuning, at equal epochs, on CIFAR-10.

    .venv/bin/python benchmarks/s2h.py --epochs 8 --images 6000 --targets 0.3 --seeds 0 1

Every method sees the same pictures for the same number of epochs: s2h from scratch; one-shot methods spend the
first half on the dense network and the second half on the pruned one.
"""

import argparse
import copy
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.images.pictures import Pictures, read_pictures
from secateur.images.prune import prune_channels_, top1
from secateur.images.recipe import NetworkRecipe
from secateur.images.train import NetworkTraining, train_network
from secateur.storage.network import Network, Preprocessing
from secateur.train.s2h import SoftToHardSettings

DATA = Path(__file__).parents[2] / "shared" / "data" / "cifar10"
SMALL = Preprocessing(size=32, crop=1.0, mean=(0.491, 0.482, 0.447), std=(0.247, 0.244, 0.262))


class Residual(nn.Module):
    """One block of a ResNet."""

    def __init__(self, into: int, out: int, stride: int) -> None:
        """Channels in and out."""
        super().__init__()
        self.a, self.b = nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.one, self.two = nn.BatchNorm2d(out), nn.BatchNorm2d(out)
        short = (nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.short = nn.Sequential(*short) if stride > 1 or into != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        return torch.relu(self.two(self.b(torch.relu(self.one(self.a(x))))) + self.short(x))


def resnet8(seed: int) -> nn.Module:
    """A ResNet of three blocks for pictures of 32 pixels."""
    with torch.random.fork_rng():
        torch.random.manual_seed(seed)
        stem = (nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        blocks = (Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 64, 2))
        return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def mobilenet(seed: int) -> nn.Module:
    """Depthwise-separable blocks for pictures of 32 pixels."""
    with torch.random.fork_rng():
        torch.random.manual_seed(seed)
        parts: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
        for into, out, stride in ((16, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1)):
            parts += [nn.Conv2d(into, into, 3, stride, 1, groups=into, bias=False), nn.BatchNorm2d(into), nn.ReLU()]
            parts += [nn.Conv2d(into, out, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


NETWORKS = {"resnet8": resnet8, "mobilenet": mobilenet}


def trained(network: Network, out: Path, images: Path, test: Pictures, **settings: Any) -> dict[str, Any]:
    """Train a network and measure it on the test pictures."""
    result = train_network(network, out, NetworkTraining(**settings), images=images)
    return result | {"top1": top1(network.model, test)}


def learned(network: Network, chosen: Any, seed: int, target: float, distill: str, room: Path) -> dict[str, Any]:
    """S2HPruner, or a part of it."""
    widths = SoftToHardSettings(target=target, distill=distill)
    result = trained(
        network,
        room / "out",
        chosen.zip,
        chosen.test,
        epochs=chosen.epochs,
        batch=64,
        rate=0.1,
        seed=seed,
        widths=widths,
    )
    last = result["history"][-1]
    gap = last["soft"] - last["hard"]
    return {"top1": result["top1"], "macs": result["macs"][1] / result["macs"][0], "gap": gap}


def one_shot(network: Network, chosen: Any, seed: int, target: float, method: str, room: Path) -> dict[str, Any]:
    """Dense for half of the epochs, cut once, fine-tuned for the other half."""
    half: dict[str, Any] = {"method": "finetune", "epochs": chosen.epochs // 2, "batch": 64, "seed": seed}
    dense = copy.deepcopy(network.model)
    source = Network(dense, network.source, preprocessing=SMALL)
    trained(source, room / "dense", chosen.zip, chosen.test, rate=0.1, **half)
    recipe = NetworkRecipe(method=method, budget=f"{target}-macs", allocator="global", samples=256, seed=seed)
    drawn = read_pictures(chosen.zip, SMALL, limit=256, seed=seed)
    pruned = prune_channels_(dense, source.example, recipe, drawn)
    before = top1(dense, chosen.test)
    result = trained(source, room / "out", chosen.zip, chosen.test, rate=0.05, **half)
    return {"top1": result["top1"], "macs": pruned.after.macs / pruned.before.macs, "one_shot": before}


def subset(count: int, room: Path) -> Path:
    """The first pictures of every class, as a zip."""
    import zipfile

    path = room / "images.zip"
    with zipfile.ZipFile(DATA / "train.zip") as archive, zipfile.ZipFile(path, "w") as small:
        for name in archive.namelist():
            if name.endswith(".jpg") and int(name.rpartition("/")[2][:-4]) < count // 10:
                small.writestr(name, archive.read(name))
    return path


def main() -> None:
    """Every method at every target and seed; the file is written after each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, default="resnet8")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--targets", type=float, nargs="*", default=[0.3])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--methods", nargs="*", default=["both", "weights", "none", "l1", "taylor", "refit"])
    parser.add_argument("--out", default="benchmarks/results/s2h.json")
    chosen = parser.parse_args()
    settings = {"network": chosen.network, "epochs": chosen.epochs, "images": chosen.images}
    results: dict[str, Any] = {"settings": settings, "runs": []}
    with tempfile.TemporaryDirectory() as folder:
        chosen.zip, chosen.test = subset(chosen.images, Path(folder)), read_pictures(DATA / "test.zip", SMALL)
        for target in chosen.targets:
            for method in chosen.methods:
                for seed in chosen.seeds:
                    network = Network(NETWORKS[chosen.network](seed), chosen.network, preprocessing=SMALL)
                    run = learned if method in ("both", "weights", "none") else one_shot
                    with tempfile.TemporaryDirectory() as room:
                        one = run(network, chosen, seed, target, method, Path(room))
                    results["runs"].append({"target": target, "method": method, "seed": seed, **one})
                    results["table"] = table(results["runs"])
                    Path(chosen.out).write_text(json.dumps(results, indent=1) + "\n")
                    print(json.dumps(results["runs"][-1]), flush=True)


def table(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and spread over seeds, by target and method."""
    rows: dict[str, list[float]] = {}
    for run in runs:
        rows.setdefault(f"{run['target']} {run['method']}", []).append(run["top1"])
    return {name: {"mean": statistics.mean(own), "spread": max(own) - min(own)} for name, own in rows.items()}


if __name__ == "__main__":
    main()

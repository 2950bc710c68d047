"""Channels removed in one shot, without training: top-1 of every method at three budgets, on ImageNet networks.

.venv/bin/python benchmarks/one_shot.py
.venv/bin/python benchmarks/one_shot.py --network torchvision:mobilenet_v2 --weights FILE
"""

import argparse
import copy
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from secateur.convnet.structure import describe_channels
from secateur.core.cut import Cut
from secateur.images.pictures import read_pictures
from secateur.images.prune import prune_channels_, top1
from secateur.images.recipe import NetworkRecipe
from secateur.images.repair import Repair, repair_
from secateur.storage.network import open_network

sys.path.append(f"{sys.prefix}/pictures")  # torchvision, which transformers must not have found: see docs/networks.md
DATA = Path(__file__).parents[2] / "shared" / "data"
METHODS: dict[str, dict[str, Any]] = {
    "random": {"method": "random"},
    "l1": {"method": "l1"},
    "fpgm": {"method": "fpgm"},
    "bn-scale": {"method": "bn-scale"},
    "taylor": {"method": "taylor"},
    "taylor, global": {"method": "taylor", "allocator": "global"},
    "l1 + refit": {"method": "l1", "repair": "refit"},
    "taylor + refit, global": {"method": "taylor", "repair": "refit", "allocator": "global"},
    "refit": {"method": "refit"},
    "refit, global": {"method": "refit", "allocator": "global"},
    "taylor, knapsack": {"method": "taylor", "allocator": "knapsack"},
    "taylor + refit, knapsack": {"method": "taylor", "repair": "refit", "allocator": "knapsack"},
}


def main() -> None:
    """Every method at every budget; the file is written after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="bundled:efficientnet-lite0")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--budgets", type=float, nargs="*", default=[0.9, 0.8, 0.7])
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--samples", type=int, default=160)
    parser.add_argument("--out", default="benchmarks/results/one_shot.json")
    chosen = parser.parse_args()
    network = open_network(chosen.network, weights=chosen.weights)
    drawn = read_pictures(DATA / "imagenette160" / "train.zip", network.preprocessing, limit=chosen.samples)
    test = read_pictures(DATA / "imagenet", network.preprocessing)
    out = Path(chosen.out)
    results: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    own = results.setdefault(chosen.network, {"samples": chosen.samples, "tested": len(test.pixels), "rows": []})
    own["dense"] = top1(network.model, test)
    again = copy.deepcopy(network.model)
    with torch.no_grad():
        repair_(describe_channels(again, network.example), Cut({}), drawn.pixels, Repair())
    own["dense, recalibrated"] = top1(again, test)
    for budget in chosen.budgets:
        for name in chosen.methods:
            model, started = copy.deepcopy(network.model), time.perf_counter()
            recipe = NetworkRecipe(budget=f"{budget}-macs", sites="inner", **METHODS[name])
            pruned = prune_channels_(model, network.example, recipe, drawn)
            seconds = time.perf_counter() - started
            row = {"budget": budget, "method": name, "macs": pruned.after.macs / pruned.before.macs}
            own["rows"].append({**row, "top1": top1(model, test), "seconds": seconds})
            out.write_text(json.dumps(results, indent=1) + "\n")
            print(json.dumps(own["rows"][-1]), flush=True)


if __name__ == "__main__":
    main()

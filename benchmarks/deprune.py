"""DEPrune on EfficientNet-Lite0: top-1 in one shot, and milliseconds of dense and pruned networks by engine.

    .venv/bin/python benchmarks/deprune.py --images train.zip --test DIR --engines torch,onnxruntime,openvino,blocked

Every engine times the dense and the pruned network in turns. Results are written after every row.
"""

import argparse
import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from secateur.deprune.depthwise import describe_separable
from secateur.deprune.prune import deprune_
from secateur.deprune.recipe import DepruneRecipe
from secateur.deprune.table import layer_times
from secateur.images.bench import bench_networks
from secateur.images.pictures import read_pictures
from secateur.images.prune import top1
from secateur.storage.network import Network, open_network

ROWS: dict[str, dict[str, Any]] = {
    "half of the taps, by runs": {"ratio": 0.5, "pointwise": "none"},
    "half of the taps, balanced": {"ratio": 0.5, "pointwise": "none", "taps": "balanced"},
    "quarter of the channels": {"ratio": 0.25, "taps": "none"},
    "both": {"ratio": 0.5, "pointwise_ratio": 0.25},
}


def depthwise_times(dense: Network, pruned: Network) -> dict[str, list[float]]:
    """Milliseconds of every depthwise layer: torch dense, in blocks dense, in blocks pruned."""
    names = [own.name for own in describe_separable(dense.model, dense.example, "none").kernels]
    pairs = ((dense, "torch"), (dense, "blocked"), (pruned, "blocked"))
    times = [layer_times(network.model, network.example, engine) for network, engine in pairs]
    return {name: [own[name] for own in times] for name in names}


def main() -> None:
    """Every row at every number of threads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="bundled:efficientnet-lite0")
    parser.add_argument("--images", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--engines", default="torch,blocked")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 32])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/deprune.json"))
    chosen = parser.parse_args()
    dense = open_network(chosen.network)
    drawn = read_pictures(chosen.images, dense.preprocessing, limit=chosen.samples)
    tested = read_pictures(chosen.test, dense.preprocessing)
    results: dict[str, Any] = {"samples": chosen.samples, "tested": len(tested.pixels)}
    results["dense"] = top1(dense.model, tested)
    for name, fields in ROWS.items():
        pruned = replace(dense, model=copy.deepcopy(dense.model))
        done = deprune_(pruned, DepruneRecipe(samples=chosen.samples, **fields), drawn)
        row: dict[str, Any] = {"macs": done.pruned.after.macs / done.pruned.before.macs}
        row["top1"] = top1(pruned.model, tested)
        for threads in chosen.threads:
            torch.set_num_threads(threads)
            engines = {"engines": chosen.engines.split(","), "batches": chosen.batches, "rounds": chosen.rounds}
            row[f"{threads} threads"] = bench_networks(dense, pruned, **engines)
            row[f"{threads} threads, depthwise"] = depthwise_times(dense, pruned)
        results[name] = row
        chosen.out.write_text(json.dumps(results, indent=1) + "\n")
        print(name, json.dumps({"macs": row["macs"], "top1": row["top1"]}), flush=True)


if __name__ == "__main__":
    main()

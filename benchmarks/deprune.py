"""DEPrune and its rivals at equal time: top-1 in one shot and after the same recovery, then milliseconds by engine.

    .venv/bin/python benchmarks/deprune.py prune --images train.zip --test DIR --folder rows
    .venv/bin/python benchmarks/deprune.py recover --images train.zip --test DIR --folder rows
    .venv/bin/python benchmarks/deprune.py time --folder rows
    .venv/bin/python benchmarks/deprune.py prune --network torchvision:mobilenet_v2 --weights FILE ...

`prune` writes every row's network into a folder, on one thread: budgets are times on it. `recover` trains them. `time`,
on a quiet machine, has every engine time the dense network and each row's in turns. Results are written after every
row, and what is there is not made again.
"""

import argparse
import copy
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from secateur.convnet.costs import costs
from secateur.convnet.structure import describe_channels
from secateur.core.errors import SecateurError
from secateur.deprune.depthwise import describe_separable
from secateur.deprune.prune import deprune_
from secateur.deprune.recipe import DepruneRecipe
from secateur.deprune.table import CostTable, layer_times, measure_table
from secateur.images.bench import bench_networks, time_in_turns
from secateur.images.export import export_network
from secateur.images.pictures import Pictures, pictures_for
from secateur.images.prune import prune_channels_, top1
from secateur.images.recipe import NetworkRecipe
from secateur.images.train import NetworkTraining, train_network
from secateur.machine.memory import freed_memory_kept
from secateur.storage.network import Network, open_network, save_network

sys.path.append(f"{sys.prefix}/pictures")  # torchvision, which transformers must not have found: see docs/networks.md
ROWS: dict[str, dict[str, Any]] = {
    "DEPrune, 0.8": {"budget": "0.8-ms"},
    "channels alone, 0.8": {"budget": "0.8-ms", "taps": "none"},
    "half of the taps": {"ratio": 0.5, "pointwise": "none"},
    "Taylor channels, 0.8": {"method": "taylor", "limit": 0.8},
    "published, BWT, 0.8": {"taps": "balanced", "limit": 0.8},
    "L1 filters, 0.8": {"method": "l1", "limit": 0.8},
    "DEPrune, 0.67": {"budget": "0.67-ms"},
    "DEPrune, 0.9": {"budget": "0.9-ms"},
    "published, without BWT, 0.8": {"taps": "channel", "limit": 0.8},
    "published, BWT and HSR, 0.8": {"taps": "balanced", "halves": True, "limit": 0.8},
}
RESULTS = Path("benchmarks/results/deprune.json")


def own(dense: Network, fields: dict[str, Any], pictures: Pictures, table: CostTable) -> Network:
    """A row of this project's method."""
    pruned = replace(dense, model=copy.deepcopy(dense.model))
    done = deprune_(pruned, DepruneRecipe(samples=len(pictures.pixels), **fields), pictures, table)
    return pruned.without(done.pruned.removal)


def rival(dense: Network, fields: dict[str, Any], pictures: Pictures) -> tuple[Network, float]:
    """A row of another method, as large as the time allows, and the share of channels or MACs that this comes to.

    Channel methods take the sites that DEPrune takes, and refit as it does. The published rules lose half of the taps,
    and as many channels that blocks project to as it takes.
    """
    limit, rest = fields["limit"], {key: value for key, value in fields.items() if key != "limit"}

    def made(share: float, *, whole: bool) -> Network:
        pruned = replace(dense, model=copy.deepcopy(dense.model))
        drawn = pictures if whole else Pictures(pictures.pixels[:8], None)
        if "method" in rest:
            repair = "refit" if whole else "none"
            recipe = NetworkRecipe(method=rest["method"], sites="inner", budget=f"{1 - share:.4f}-macs", repair=repair)
            return pruned.without(prune_channels_(pruned.model, dense.example, recipe, drawn).removal)
        recipe = DepruneRecipe(ratio=0.5, pointwise_ratio=share, pointwise="projected", refit=whole, multiple=8, **rest)
        return pruned.without(deprune_(pruned, recipe, drawn).pruned.removal)

    low, high = 0.0, 0.8
    for _ in range(5):
        share = (low + high) / 2
        try:
            one, two = time_in_turns([dense, made(share, whole=False)], engine="blocked")
        except SecateurError:  # more than the sites have
            high = share
            continue
        low, high = (low, share) if two <= limit * one else (share, high)
    return made(high, whole=True), high


def recovered(row: Path, dense: Network, images: str, test: Pictures) -> float:
    """Top-1 after `train --method reconstruct` of a row's folder."""
    small = open_network(row)
    training = NetworkTraining(method="reconstruct", epochs=8, batch=32, samples=512)
    train_network(small, row.with_name(f"{row.name}, recovered"), training, images=images, teacher=dense)
    return top1(small.model, test)


def prune(chosen: Any) -> None:
    """Every row of a network that is not there yet."""
    torch.set_num_threads(1)
    dense = open_network(chosen.network, weights=chosen.weights)
    pictures = pictures_for(dense, chosen.images, limit=chosen.samples)
    test = pictures_for(dense, chosen.test)
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    rows = results.setdefault(chosen.network, {"weights": Path(chosen.weights).name, "samples": chosen.samples})
    rows["command"] = "benchmarks/deprune.py prune, recover, time; pictures of Imagenette, tested on 500 of ImageNet"
    rows["dense"] = {"top1": top1(dense.model, test), "tested": len(test.pixels)}
    kept = chosen.folder / "table.json"
    if not kept.exists():
        measure_table(describe_separable(dense.model, dense.example, "expanded"), dense.example).save(kept)
    for name, fields in ROWS.items():
        if name in rows or (chosen.rows and name not in chosen.rows):
            continue
        try:
            if "limit" in fields:
                small, share = rival(dense, fields, pictures)
            else:
                small, share = own(dense, fields, pictures, CostTable.load(kept)), None
        except SecateurError as error:
            print(name, error, flush=True)
            continue
        folder = chosen.folder / name
        folder.mkdir()
        save_network(small, folder)
        rows[name] = {"share": share, "params": sum(value.numel() for value in small.model.parameters())}
        rows[name]["top1"] = top1(small.model, test)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        print(name, rows[name], flush=True)


def recover(chosen: Any) -> None:
    """Train every row that was not, all in the same way."""
    dense = open_network(chosen.network, weights=chosen.weights)
    test = pictures_for(dense, chosen.test)
    for name in ROWS:
        results = json.loads(RESULTS.read_text())
        row = results[chosen.network].get(name)
        if row is None or "recovered" in row or (chosen.rows and name not in chosen.rows):
            continue
        row["recovered"] = recovered(chosen.folder / name, dense, chosen.images, test)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        print(name, row, flush=True)


def time_rows(chosen: Any) -> None:
    """Milliseconds of the dense network and of every row's, and those of depthwise layers."""
    results = json.loads(RESULTS.read_text())
    dense = open_network(chosen.network, weights=chosen.weights)
    for name, row in results[chosen.network].items():
        if not (chosen.folder / name).exists() or (chosen.rows and name not in chosen.rows):
            continue
        small = open_network(chosen.folder / name)
        row["macs"] = macs(small) / macs(dense)
        row["ms"] = {}
        for threads in chosen.threads:
            torch.set_num_threads(threads)
            engines = chosen.engines.split(",")
            row["ms"][f"{threads} threads"] = bench_networks(
                dense, small, engines=engines, batches=chosen.batches, rounds=chosen.rounds
            )
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        print(name, json.dumps(row["ms"]), flush=True)
    halved = chosen.folder / "half of the taps"
    if halved.exists():
        small = open_network(halved)
        results[chosen.network]["depthwise"] = {
            f"{threads} threads, batch {batch}": depthwise(dense, small, threads, batch)
            for threads in chosen.threads
            for batch in chosen.batches
        }
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def macs(network: Network) -> float:
    """Multiply-accumulates of one picture."""
    return costs(describe_channels(network.model, network.example)).macs


def depthwise(dense: Network, halved: Network, threads: int, batch: int) -> dict[str, Any]:
    """Milliseconds of every depthwise layer as it runs within the network, in engines' own layouts."""
    torch.set_num_threads(threads)
    example = dense.example.repeat(batch, 1, 1, 1)
    names = [kernel.name for kernel in describe_separable(dense.model, dense.example, "none").kernels]
    rows = {"torch": (dense, "torch"), "blocked": (dense, "blocked"), "blocked, half": (halved, "blocked")}
    found = {"onnxruntime": onnxruntime_layers(dense, example), "openvino": openvino_layers(dense, example)}
    for row, (network, engine) in rows.items():
        times = layer_times(network.model, dense.example, engine, batch)
        found[row] = [times[name] for name in names]
    return {"layers": names, **found}


def onnxruntime_layers(dense: Network, example: torch.Tensor, rounds: int = 30) -> list[float]:
    """Lower quartiles of ONNX Runtime's profile, of depthwise convolutions; its own layout, conversions apart."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as room:
        path = export_network(dense, Path(room) / "model.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.enable_profiling, options.profile_file_prefix = True, f"{room}/profile"
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        pixels = {session.get_inputs()[0].name: torch.rand(example.shape).numpy()}
        for _ in range(rounds):
            session.run(None, pixels)
        events = json.loads(Path(session.end_profiling()).read_text())
    spent: dict[str, list[float]] = {}
    for event in events:
        told = event.get("args", {})
        if told.get("op_name") == "Conv":
            _, inner, *kernel = told["input_type_shape"][1]["float"]  # of the weight
            if inner == 1 and kernel != [1, 1]:
                spent.setdefault(event["name"], []).append(event["dur"] / 1000)
    return [float(torch.tensor(times[2:]).quantile(0.25)) for times in spent.values()]


def openvino_layers(dense: Network, example: torch.Tensor, rounds: int = 30) -> list[float]:
    """Lower quartiles of OpenVINO's profile, of convolutions with groups."""
    import openvino

    with tempfile.TemporaryDirectory() as room:
        path = export_network(dense, Path(room) / "model.onnx")
        settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
        core = openvino.Core()
        model = core.read_model(path)
        model.reshape(list(example.shape))
        request = core.compile_model(model, "CPU", settings | {"PERF_COUNT": True}).create_infer_request()
        spent: dict[str, list[float]] = {}
        for _ in range(rounds):
            request.infer([torch.rand(example.shape).numpy()])
            for layer in request.get_profiling_info():
                if layer.node_type == "GroupConvolution" or "dw" in layer.exec_type:
                    spent.setdefault(layer.node_name, []).append(layer.real_time.total_seconds() * 1000)
    return [float(torch.tensor(times[2:]).quantile(0.25)) for times in spent.values()]


def main() -> None:
    """One of the commands."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["prune", "recover", "time"])
    parser.add_argument("--network", default="bundled:efficientnet-lite0")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--images")
    parser.add_argument("--test")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", nargs="*")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--engines", default="onnxruntime,openvino,blocked")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 32])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    with freed_memory_kept():
        {"prune": prune, "recover": recover, "time": time_rows}[chosen.command](chosen)


if __name__ == "__main__":
    main()

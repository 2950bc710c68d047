"""How much of a SparseGPT run is matrix products, and how far it is from their limit.

Profiles the first blocks of a model (embedding and saving included) and compares the
products' floating-point operations with the fastest product this machine is seen to do.

    python benchmarks/products.py
"""

import json
import tempfile
import time
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from secateur import Calibration, Recipe, prune
from secateur.storage.folder import copy_companions
from secateur.storage.source import load_tokenizer, resolve

HERE = Path(__file__).parent
BLOCKS = 4
PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_")
ATTENTION = "aten::_scaled_dot_product_flash_attention_for_cpu"


def fastest_product() -> float:
    """The best rate of a large float32 product, in GFLOP/s."""
    a, b = torch.randn(2048, 1536), torch.randn(1536, 1536)
    best = 1e9
    for _ in range(30):
        started = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - started)
    return 2 * 2048 * 1536 * 1536 / best / 1e9


def main() -> None:
    """Profile, print, write the JSON."""
    source = resolve("bundled:smollm2")
    ids = Calibration().draw(load_tokenizer(source))
    with tempfile.TemporaryDirectory() as room:
        short = Path(room) / "model"
        short.mkdir()
        copy_companions(source, short)
        config = json.loads((source / "config.json").read_text())
        (short / "config.json").write_text(json.dumps({**config, "num_hidden_layers": BLOCKS}))
        (short / "model.safetensors").symlink_to(source / "model.safetensors")
        prune(short, Recipe(ratio=0.5), f"{room}/warm", ids=ids[:2])
        started = time.perf_counter()
        prune(short, Recipe(ratio=0.5), f"{room}/timed", ids=ids)
        wall = time.perf_counter() - started
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
            prune(short, Recipe(ratio=0.5), f"{room}/out", ids=ids)
    events = seen.key_averages(group_by_input_shape=True)
    times: dict[str, float] = {}
    work = 0.0
    for event in events:
        times[event.key] = times.get(event.key, 0.0) + event.self_cpu_time_total / 1e6
        if event.key in PRODUCTS:
            left, right = [shape for shape in event.input_shapes if shape][-2:]
            work += 2 * left[0] * left[1] * right[1] * event.count / 1e9
    products = sum(times.get(name, 0.0) for name in PRODUCTS)
    peak = fastest_product()
    document = {
        "command": "python benchmarks/products.py",
        "setting": f"SparseGPT 50%, first {BLOCKS} blocks of SmolLM2-135M, 16 x 1,024 tokens",
        "seconds": round(wall, 2),
        "products_share": round(products / wall, 3),
        "attention_share": round(times.get(ATTENTION, 0.0) / wall, 3),
        "products_gflop": round(work),
        "products_gflop_per_second": round(work / products),
        "fastest_product_gflop_per_second": round(peak),
        "seconds_at_the_limit": round(work / peak, 2),
    }
    print(json.dumps(document, indent=2))
    (HERE / "results" / "products.json").write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Packed 2:4 products against dense ones on this processor, as ratios measured side by side.

    .venv/bin/python benchmarks/two_four.py

Every product takes turns with the others, on weights that rotate through more memory than the caches hold. A ratio
is that of medians. `--decode FOLDER` (pruned 2:4) adds tokens per second of the model, packed and dense.
"""

import argparse
import ctypes
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import secateur
from secateur.core.compiled import library
from secateur.core.pattern import NM
from secateur.runtime.two_four import SOURCE, TwoFour, dense_tiles

SHAPES = {
    "smollm2 q, o": (576, 576),
    "smollm2 gate, up": (1536, 576),
    "smollm2 down": (576, 1536),
    "smollm2 head": (49152, 576),
    "7B q, k, v, o": (4096, 4096),
    "7B gate, up": (11008, 4096),
    "7B down": (4096, 11008),
}
ROOM = 256 << 20  # bytes of dense bfloat16 weights that a product rotates through
ROUNDS = 15


def ways(weight: Tensor, copies: int, batch: int) -> dict[str, Callable[[int], object]]:
    """Every product by name, as a function of the copy's number; each has copies of its own."""
    half = [weight.bfloat16().clone() for _ in range(copies)]
    packed = [TwoFour.pack(weight)]
    packed += [TwoFour(packed[0].values.clone(), packed[0].places.clone(), len(weight)) for _ in range(copies - 1)]
    tiles = [dense_tiles(weight)]
    tiles += [tiles[0].clone() for _ in range(copies - 1)]
    wide = [weight.clone() for _ in range(max(1, copies // 2))]
    x, narrow = torch.randn(batch, weight.shape[1]), torch.randn(batch, weight.shape[1]).bfloat16()
    out = torch.empty(batch, len(weight))
    compiled: Any = library(SOURCE)

    def own_dense(number: int) -> None:
        pointers = [ctypes.c_void_p(each.data_ptr()) for each in (tiles[number], x, out)]
        sizes = (ctypes.c_int64(weight.shape[0]), ctypes.c_int64(weight.shape[1]))
        compiled.dense_product(*pointers, *sizes, batch, torch.get_num_threads())

    return {
        "2:4": lambda number: packed[number].product(x),
        "torch bfloat16": lambda number: torch.nn.functional.linear(narrow, half[number]),
        "torch float32": lambda number: torch.nn.functional.linear(x, wide[number % len(wide)]),
        "own dense bfloat16": own_dense,
    }


def ratios(shape: tuple[int, int], batch: int, threads: int) -> dict[str, float]:
    """How many times as long each dense product takes as the packed one."""
    torch.set_num_threads(threads)
    weight = torch.randn(shape)
    weight *= NM().keep(weight.abs(), 0.5)
    copies = max(2, ROOM // (2 * weight.numel()))
    every = ways(weight, copies, batch)
    times: dict[str, list[float]] = {name: [] for name in every}
    for _ in range(ROUNDS):
        for name, product in every.items():
            started = time.perf_counter()
            for number in range(copies):
                product(number)
            times[name].append((time.perf_counter() - started) / copies)
    middle = {name: statistics.median(own) for name, own in times.items()}
    return {name: own / middle["2:4"] for name, own in middle.items() if name != "2:4"}


@torch.no_grad()
def decode(folder: str, new: int = 64) -> dict[str, float]:
    """Tokens per second of a pruned model: packed, dense bfloat16 and dense float32, in turns."""
    models = {
        "2:4": secateur.load(folder, torch.float32, runtime="2:4"),
        "torch bfloat16": secateur.load(folder, torch.bfloat16),
        "torch float32": secateur.load(folder, torch.float32),
    }
    ids, rates = torch.arange(8)[None], dict[str, list[float]]()
    for _ in range(5):
        for name, model in models.items():
            started = time.perf_counter()
            model.generate(ids, max_new_tokens=new, min_new_tokens=new, do_sample=False)
            rates.setdefault(name, []).append(new / (time.perf_counter() - started))
    return {name: statistics.median(own) for name, own in rates.items()}


def main() -> None:
    """Every shape, batch and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decode")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/two_four.json"))
    chosen = parser.parse_args()
    made: Any = library(SOURCE)
    results: dict[str, Any] = {"processor": platform.processor(), "lanes": made.two_four_kind(), "ratios": {}}
    for threads in (1, 2):
        for batch in (1, 8):
            for name, shape in SHAPES.items():
                own = ratios(shape, batch, threads)
                results["ratios"][f"{name} {list(shape)}, batch {batch}, threads {threads}"] = own
                print(name, batch, threads, {key: round(value, 2) for key, value in own.items()}, flush=True)
    if chosen.decode:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results[f"tokens per second, threads {threads}"] = decode(chosen.decode)
            print(results[f"tokens per second, threads {threads}"], flush=True)
    chosen.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Products of weights with zeros anywhere, by bitmasks, against dense ones: from which share of zeros it pays.

    .venv/bin/python benchmarks/bitmask.py

Every product takes turns with the others, on weights that rotate through more memory than the caches hold. A ratio is
that of medians: how many times as long the dense product takes.
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

from secateur.core.compiled import library
from secateur.runtime import bitmask, two_four
from secateur.runtime.bitmask import Bitmask
from secateur.runtime.two_four import dense_tiles

SHAPES = {
    "smollm2 gate, up": (1536, 576),
    "smollm2 down": (576, 1536),
    "7B q, k, v, o": (4096, 4096),
    "7B gate, up": (11008, 4096),
}
SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
ROOM = 256 << 20  # bytes of dense bfloat16 weights that a product rotates through
ROUNDS = 9


def ratios(shape: tuple[int, int], share: float, threads: int) -> dict[str, float]:
    """How many times as long each dense product takes as the packed one, one vector."""
    torch.set_num_threads(threads)
    weight = torch.randn(shape)
    weight *= torch.rand(shape) >= share
    copies = max(2, ROOM // (2 * weight.numel()))
    half = [weight.bfloat16().clone() for _ in range(copies)]
    first, tiles = Bitmask.pack(weight), dense_tiles(weight)
    packed = [Bitmask(first.values.clone(), first.masks.clone(), first.starts, len(weight)) for _ in range(copies)]
    dense = [tiles.clone() for _ in range(copies)]
    x, out = torch.randn(1, shape[1]), torch.empty(1, shape[0])
    compiled: Any = library(two_four.SOURCE)

    def own_dense(number: int) -> None:
        pointers = [ctypes.c_void_p(each.data_ptr()) for each in (dense[number], x, out)]
        compiled.dense_product(*pointers, ctypes.c_int64(shape[0]), ctypes.c_int64(shape[1]), 1, threads)

    every: dict[str, Callable[[int], object]] = {
        "bitmask": lambda number: packed[number].product(x),
        "torch bfloat16": lambda number: torch.nn.functional.linear(x.bfloat16(), half[number]),
        "own dense bfloat16": own_dense,
    }
    times: dict[str, list[float]] = {name: [] for name in every}
    for _ in range(ROUNDS):
        for name, product in every.items():
            started = time.perf_counter()
            for number in range(copies):
                product(number)
            times[name].append((time.perf_counter() - started) / copies)
    middle = {name: statistics.median(own) for name, own in times.items()}
    found = {name: own / middle["bitmask"] for name, own in middle.items() if name != "bitmask"}
    return found | {"bytes": first.bytes / (2 * weight.numel())}


def main() -> None:
    """Every shape, share of zeros and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/bitmask.json"))
    chosen = parser.parse_args()
    made: Any = library(bitmask.SOURCE)
    results: dict[str, Any] = {"processor": platform.processor(), "lanes": made.bitmask_kind(), "ratios": {}}
    for threads in (1, 2):
        for name, shape in SHAPES.items():
            for share in SHARES:
                own = ratios(shape, share, threads)
                results["ratios"][f"{name} {list(shape)}, {share:.0%} zeros, threads {threads}"] = own
                print(name, share, threads, {key: round(value, 2) for key, value in own.items()}, flush=True)
    chosen.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

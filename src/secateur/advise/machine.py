"""What this machine is and runs, and how much faster smaller or sparser matrices are here, by short probes."""

import os
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from secateur.runtime import bitmask, two_four

__all__ = ["describe_machine", "probe_decoding"]

_ENGINES = {"torch": "torch", "onnxruntime": "onnxruntime", "openvino": "openvino", "llama.cpp": "llama_cpp"}
_TURNS, _ENOUGH = 40, 0.003  # turns of every product, and seconds that a turn takes at least
_SHARE = 0.25  # of the rows that the smaller matrix lacks
_ZEROS = 0.5


def describe_machine() -> dict[str, Any]:
    """Cores, instruction set, memory, GPU, engines that are installed, and which packed products compile here."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9 if hasattr(os, "sysconf") else None
    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "memory_gb": memory,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "engines": {name: find_spec(module) is not None for name, module in _ENGINES.items()},
        "packed": {"2:4": two_four.runs_here(), "bitmask": bitmask.runs_here()},
    }


@torch.no_grad()
def probe_decoding(rows: int, columns: int) -> dict[str, float]:
    """How many times as fast as a dense bfloat16 product of one vector some others are, for a matrix of this shape.

    smaller: a quarter of the rows removed. 2:4, bitmask: half of the weights zero, by the packed products; left out
    where they do not compile. All take turns. Enough matrices are used in turn that
    they do not stay in caches. One thread.
    """
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(rows, columns, generator=generator)
    kept = dense[: max(1, round(rows * (1 - _SHARE)))]
    zeros = dense * (torch.rand(rows, columns, generator=generator) >= _ZEROS)
    fours = dense.clone()
    fours.view(rows, -1, 4)[..., 2:] = 0
    copies = max(1, int(64e6 / (2 * rows * columns)))  # 64 MB of weights: more than caches hold
    vector = torch.randn(1, columns, generator=generator)
    products: dict[str, Callable[[int], Tensor]] = {"dense": _plain(dense, copies), "smaller": _plain(kept, copies)}
    if two_four.runs_here():
        packed = [two_four.TwoFour.pack(fours) for _ in range(copies)]
        products["2:4"] = lambda at: packed[at % copies].product(vector)
    if bitmask.runs_here():
        masked = [bitmask.Bitmask.pack(zeros) for _ in range(copies)]
        products["bitmask"] = lambda at: masked[at % copies].product(vector)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a busy machine makes threads wait for each other
    try:
        seconds = _race(products)
    finally:
        torch.set_num_threads(threads)
    return {name: seconds["dense"] / spent for name, spent in seconds.items() if name != "dense"}


def _plain(weight: Tensor, copies: int) -> Callable[[int], Tensor]:
    held = [weight.to(torch.bfloat16).clone() for _ in range(copies)]
    vector = torch.ones(1, weight.shape[1], dtype=torch.bfloat16)
    return lambda at: nn.functional.linear(vector, held[at % copies])


def _race(products: Mapping[str, Callable[[int], Tensor]]) -> dict[str, float]:
    """The least seconds of each product over many short turns: other jobs lengthen some turns, and shorten none."""
    repeats = {name: _repeats(act) for name, act in products.items()}
    turns: dict[str, list[float]] = {name: [] for name in products}
    for _ in range(_TURNS):
        for name, act in products.items():
            begun = time.perf_counter()
            for at in range(repeats[name]):
                act(at)
            turns[name].append((time.perf_counter() - begun) / repeats[name])
    return {name: min(times) for name, times in turns.items()}


def _repeats(act: Callable[[int], Tensor]) -> int:
    """How often a product runs in a turn; the first ones, which compile and warm up, do not count."""
    act(0)
    begun = time.perf_counter()
    act(1)
    return max(1, int(_ENOUGH / max(time.perf_counter() - begun, 1e-7)))

"""bench_networks(dense, pruned): milliseconds a picture of two networks, in turns, by engine and batch."""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from secateur.core.errors import InputError
from secateur.core.seed import generator
from secateur.images.export import export_network, onnx_session
from secateur.runtime.blocked import BlockedNetwork, make_program
from secateur.storage.network import Network

__all__ = ["ENGINES", "bench_networks", "time_in_turns"]

ENGINES = ("torch", "onnxruntime", "openvino", "blocked")
_Step = Callable[[], object]


def bench_networks(
    dense: Network,
    pruned: Network,
    *,
    engines: Sequence[str] = ("torch",),
    batches: Sequence[int] = (1,),
    rounds: int = 20,
) -> dict[str, Any]:
    """Median milliseconds of a forward pass, and how many times faster the pruned network is.

    The two take turns, so that what else the machine does falls on both. Raises InputError on
    an engine that is unknown or not installed.
    """
    results: dict[str, Any] = {}
    for engine in engines:
        if engine not in ENGINES:
            raise InputError(f"engine {engine!r} is unknown for networks; known are {', '.join(ENGINES)}")
        for batch in batches:
            pair = [_step(network, engine, batch) for network in (dense, pruned)]
            one, two = (statistics.median(own) for own in _in_turns(pair, rounds))
            results[f"{engine} batch {batch}"] = {"dense_ms": one, "pruned_ms": two, "times_faster": one / two}
    return results


def time_in_turns(networks: Sequence[Network], rounds: int = 40, engine: str = "torch") -> list[float]:
    """Milliseconds of one picture through each network in an engine; they take turns.

    The lower quartile: what else the machine does only adds.
    """
    return [
        statistics.quantiles(own)[0] for own in _in_turns([_step(network, engine, 1) for network in networks], rounds)
    ]


def _step(network: Network, engine: str, batch: int) -> _Step:
    pixels = torch.rand(batch, *network.example.shape[1:], generator=generator(0, "bench", batch))
    if engine in ("torch", "blocked"):
        model = network.model if engine == "torch" else BlockedNetwork(make_program(network.model, network.example))
        return torch.inference_mode()(lambda: model(pixels))
    with tempfile.TemporaryDirectory() as room:
        path = export_network(network, Path(room) / "model.onnx")
        if engine == "onnxruntime":
            session = onnx_session(path)
            name = session.get_inputs()[0].name
            return lambda: session.run(None, {name: pixels.numpy()})
        return _openvino(path, pixels)


def _openvino(path: Path, pixels: torch.Tensor) -> _Step:
    try:
        import openvino
    except ImportError as error:
        raise InputError("timing OpenVINO needs it: pip install openvino") from error
    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(openvino.Core().read_model(path), "CPU", settings)
    return lambda: compiled(pixels.numpy())


def _in_turns(steps: Sequence[_Step], rounds: int) -> list[list[float]]:
    for step in steps:
        step()
    times: list[list[float]] = [[] for _ in steps]
    for _ in range(rounds):
        for step, own in zip(steps, times, strict=True):
            started = time.perf_counter()
            step()
            own.append(1000 * (time.perf_counter() - started))
    return times

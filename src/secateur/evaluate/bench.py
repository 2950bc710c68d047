"""bench(dense, pruned, ...) -> tokens or samples a second of both, side by side, and their ratio."""

import importlib.util
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from secateur.core.errors import InputError
from secateur.evaluate.choices import ENGINES
from secateur.evaluate.latency import Speed, forward_speed, llama_cpp_speed, onnx_speed, torch_speed
from secateur.export.convert import convert
from secateur.registry import check_name
from secateur.storage.source import Source, load_with_head, open_whole, resolve

__all__ = ["Workload", "bench"]

_PACKAGES = {"onnxruntime": ("onnxruntime", "onnx"), "llama.cpp": ("llama_cpp", "llamacpp")}
Run = Callable[[int], Mapping[str, float]]  # speeds by phase, of a batch size


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is timed: `new_tokens` decoded after a `prompt`, in these batch sizes; medians are over `rounds`."""

    batches: Sequence[int] = (1,)
    prompt: int = 512
    new_tokens: int = 128
    rounds: int = 3

    def __post_init__(self) -> None:
        """Refuse to time nothing."""
        if min(*self.batches, self.prompt, self.new_tokens, self.rounds) < 1:
            raise InputError("batch, prompt, new_tokens and rounds must be at least 1")


def bench(
    dense: str | Source,
    pruned: str | Source,
    workload: Workload | None = None,
    *,
    engines: Sequence[str] = ("torch",),
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Medians over rounds in which both models take turns; parameters inside blocks beside them.

    A model that generates text is timed in `prefill` and `decode`, tokens a second; any other in `forward`, samples a
    second, in torch alone. llama.cpp runs one sequence. Raises InputError on an unknown engine or a missing package.
    """
    for engine in engines:
        check_name("engine", engine, ENGINES)
        module, extra = _PACKAGES.get(engine, ("torch", ""))
        if importlib.util.find_spec(module) is None:
            raise InputError(f"engine {engine!r} needs its package: pip install 'secateur[{extra}]'")
    workload = workload or Workload()
    sources = resolve(dense), resolve(pruned)
    structures = [open_whole(source, torch.float32) for source in sources]
    models = [structure.model for structure in structures]
    blocks = [sum(layer.size for layer in structure.layers) for structure in structures]
    found: dict[str, Any] = {
        "parameters": [model.num_parameters() for model in models],
        "parameter_ratio": models[0].num_parameters() / models[1].num_parameters(),
        "block_parameters": blocks,
        "prompt": workload.prompt,
        "new_tokens": workload.new_tokens,
    }
    tell = progress or (lambda done, total: None)
    for done, engine in enumerate(engines):
        tell(done, len(engines))
        with tempfile.TemporaryDirectory(prefix="secateur-") as folder:
            pair = [
                _runner(engine, source, model, Path(folder) / str(place), workload)
                for place, (source, model) in enumerate(zip(sources, models, strict=True))
            ]
            sizes = _batches(engine, workload.batches)
            found[engine] = {str(batch): _compare(pair, batch, workload.rounds) for batch in sizes}
    return found


def _batches(engine: str, batches: Sequence[int]) -> Sequence[int]:
    return [1] if engine == "llama.cpp" else batches


def _runner(engine: str, source: Source, model: PreTrainedModel, place: Path, workload: Workload) -> Run:
    if not model.can_generate():
        if engine not in ("torch", "torch-bfloat16"):
            raise InputError(
                f"{type(model).__name__} writes no text, and such models are timed in torch: engine {engine!r} is not "
                "for it"
            )
        own = load_with_head(source, torch.bfloat16) if engine == "torch-bfloat16" else model
        return lambda batch: {"forward": forward_speed(own, batch, workload.prompt)}
    speed = _speed(engine, source, model, place, workload)
    return lambda batch: speed(batch)._asdict()


def _speed(
    engine: str, source: Source, model: PreTrainedModel, place: Path, workload: Workload
) -> Callable[[int], Speed]:
    prompt, new_tokens = workload.prompt, workload.new_tokens
    if engine == "llama.cpp":
        path = convert(source, "gguf", place)
        return lambda batch: llama_cpp_speed(path, prompt, new_tokens)
    if engine == "onnxruntime":
        folder = convert(source, "onnx", place)
        return lambda batch: onnx_speed(folder, model.config.vocab_size, batch, prompt, new_tokens)
    if engine == "torch-bfloat16":
        half = load_with_head(source, torch.bfloat16)
        return lambda batch: torch_speed(half, batch, prompt, new_tokens)
    return lambda batch: torch_speed(model, batch, prompt, new_tokens)


def _compare(pair: Sequence[Run], batch: int, rounds: int) -> dict[str, Any]:
    turns = [[run(batch) for run in pair] for _ in range(rounds)]  # in turns: a slow moment of the machine hits both
    phases = list(turns[0][0])
    one, two = ({phase: statistics.median(turn[side][phase] for turn in turns) for phase in phases} for side in (0, 1))
    return {"dense": one, "pruned": two, **{f"{phase}_speedup": two[phase] / one[phase] for phase in phases}}

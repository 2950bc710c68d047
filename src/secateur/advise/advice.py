"""What can make a model smaller or faster on this machine, at what measured quality, and the command to type."""

import json
import shlex
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from secateur.advise.machine import describe_machine, probe_decoding
from secateur.core.budget import parse_budget
from secateur.core.errors import InputError, RatioError, SecateurError
from secateur.experts.drop import check_experts, mixtures
from secateur.experts.dropping import DropExperts
from secateur.images.names import is_network
from secateur.run.plan import make_plan
from secateur.run.recipe import Recipe
from secateur.run.targets import block_weights
from secateur.storage.open_model import OpenModel, open_model
from secateur.storage.source import check_language, resolve

__all__ = ["advise", "measured"]

_USUAL = 0.25  # of the block weights, where no target is given
_UNITS = ("params", "bytes", "ms")
_KINDS = {"smaller": "physically removed", "zeros": "zeros anywhere", "2:4": "2:4 zeros"}


def measured() -> dict[str, Any]:
    """The figures that ship with secateur: SmolLM2-135M by method and ratio (benchmarks/packaged.py)."""
    found: dict[str, Any] = json.loads(files("secateur.advise").joinpath("measured.json").read_text(encoding="utf-8"))
    return found


def advise(model: str | Path, target: str | None = None, *, trusted: bool = False) -> dict[str, Any]:
    """What could be done to a language model here.

    target: what it may take, such as 0.5-bytes, 80M-params or 0.7-ms (shares of the dense model up to 1). Returns the
    model's sizes, the machine, probes, `choices` with best quality first, `not_here` in sentences, and the command of
    the first choice. Raises InputError on a target of another unit, RatioError on one that no block weights can meet.
    """
    if is_network(str(model)):
        raise InputError(f"{model} is a network that reads images: try `secateur prune {model} --budget 0.8-macs`")
    opened = open_model(resolve(model, trusted=trusted), torch.float32)
    check_language(opened.structure.model, "advice is known of those alone: see prune --dry-run, and bench afterwards")
    about, machine = _describe(opened, str(model)), describe_machine()
    ratio = _USUAL if target is None else _ratio(about, target)
    shape = max((tuple(layer.weight.shape) for layer in opened.structure.layers), key=lambda pair: pair[0] * pair[1])
    probes = probe_decoding(shape[0], shape[1] - shape[1] % 4)
    choices = sorted(_choices(opened, about, ratio, target), key=lambda one: one["times_perplexity"])
    choices += _experts(opened, about, ratio, target)
    if target is None:  # half of the weights: what zeros are usually asked for
        choices += sorted(_sparse(about, probes), key=lambda one: one["times_perplexity"])
    return {
        "model": about,
        "machine": machine,
        "layer": list(shape),
        "probes": probes,
        "choices": choices,
        "not_here": list(_not_here(opened, machine, probes)),
        "command": choices[0]["command"] if choices else None,
    }


def _describe(opened: OpenModel, name: str) -> dict[str, Any]:
    structure, (size, stored) = opened.structure, opened.checkpoint.size()
    return {
        "name": name,
        "class": type(structure.model).__name__,
        "blocks": len(structure.blocks),
        "parameters": size,
        "block_weights": sum(block_weights(structure, biases=True).sizes.values()),
        "mb": stored / 1e6,
    }


def _ratio(about: Mapping[str, Any], target: str) -> float:
    """The share of block weights that a target asks to remove."""
    budget = parse_budget(target)
    if budget.unit not in _UNITS or (budget.unit == "ms" and budget.limit > 1):
        raise InputError(f"--target {target!r} should be a share or size in params or bytes, or a share in ms: 0.7-ms")
    dense = about["mb"] * 1e6 if budget.unit == "bytes" else about["parameters"]
    # Decoding reads every weight once, so time follows parameters: llama.cpp gains 0.998 of their ratio (bench.json).
    share = budget.limit if budget.limit <= 1 else budget.limit / dense
    ratio = (1 - share) * about["parameters"] / about["block_weights"]
    if not 0 < ratio < 1:
        least = 1 - about["block_weights"] / about["parameters"]
        raise RatioError(f"target {target} is out of reach: embeddings, norms and head take {least:.0%} of the model")
    return ratio


def _choices(opened: OpenModel, about: Mapping[str, Any], ratio: float, target: str | None) -> Iterator[dict[str, Any]]:
    """Methods that remove structure, each with the nearest figure that was measured."""
    kept = about["parameters"] - ratio * about["block_weights"]
    rows: dict[str, dict[float, Any]] = {}
    for row in measured()["rows"]:
        if row["kind"] == "smaller":
            rows.setdefault(row["options"], {})[row["ratio"]] = row
    alike = set.intersection(*(set(known) for known in rows.values()))  # methods are compared at one ratio
    near = min(alike, key=lambda known: abs(known - ratio))
    absolute = target is not None and parse_budget(target).limit > 1
    for options, known in rows.items():
        if not _fits(opened, options, ratio):
            continue
        aim = f"--budget {target}" if absolute else f"--ratio {ratio:.2f}"
        command = f"secateur prune {shlex.quote(about['name'])} {options} {aim} --out small"
        size = kept / about["parameters"]
        yield _choice(about, known[near], command, size, 1 / size, ratio)


def _experts(opened: OpenModel, about: Mapping[str, Any], ratio: float, target: str | None) -> list[dict[str, Any]]:
    """Whole experts of a mixture, as many as the target asks for; a token computes with as many as before."""
    if target is not None and parse_budget(target).unit == "ms":
        return []
    try:
        layers = mixtures(opened)
        inside = sum(parameter.numel() for layer in layers for parameter in layer.module.parameters())
        share, count = ratio * about["block_weights"] / inside, layers[0].count
        gone = -int(-share * count // 1)  # whole experts
        gone = count - check_experts(opened, DropExperts(), min(1.0, gone / count))[1]  # groups lose equally many
    except SecateurError:
        return []
    command = f"secateur prune {shlex.quote(about['name'])} --method reap --ratio {gone / count:.3g} --out small"
    told = {"what": f"reap, {gone} of {count} experts", "kind": _KINDS["smaller"], "speed": None, "seconds": None}
    told |= {"measured_at": None, "times_perplexity": None, "command": command}
    weights = inside * gone / count
    return [told | {"size": 1 - weights / about["parameters"], "ratio": weights / about["block_weights"]}]


def _sparse(about: Mapping[str, Any], probes: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """Methods that write zeros at half of the weights."""
    for row in measured()["rows"]:
        if row["kind"] != "smaller" and row["ratio"] == 0.5:
            speed = probes.get("2:4" if row["kind"] == "2:4" else "bitmask")
            ratio = "" if row["kind"] == "2:4" else " --ratio 0.5"
            command = f"secateur prune {shlex.quote(about['name'])} {row['options']}{ratio} --out sparse"
            yield _choice(about, row, command, 1.0, speed, 0.5)


def _choice(
    about: Mapping[str, Any], row: Mapping[str, Any], command: str, size: float, speed: float | None, ratio: float
) -> dict[str, Any]:
    """A row of the advice; seconds are scaled from the measured run by block weights."""
    seconds = row["seconds"]
    return {
        "what": row["options"].removeprefix("--method ").replace("--pattern ", "").replace("--allocator ", ""),
        "kind": _KINDS[row["kind"]],
        "size": size,
        "speed": speed,
        "ratio": ratio,
        "measured_at": row["ratio"],
        "times_perplexity": row["perplexity"] / row["dense"],
        "seconds": None if seconds is None else seconds * about["block_weights"] / measured()["block_weights"],
        "command": command,
    }


def _fits(opened: OpenModel, options: str, ratio: float) -> bool:
    """Whether a method can remove this share of this model's structure."""
    words = shlex.split(options)
    told: dict[str, Any] = {key.removeprefix("--"): value for key, value in zip(words[::2], words[1::2], strict=True)}
    try:
        make_plan(Recipe(**told, ratio=ratio), opened)
    except SecateurError:
        return False
    return True


def _not_here(opened: OpenModel, machine: Mapping[str, Any], probes: Mapping[str, float]) -> Iterator[str]:
    """What does not help on this machine, and why."""
    extras = {"onnxruntime": "onnx", "llama.cpp": "llamacpp"}
    missing = [name for name, there in machine["engines"].items() if not there and name in extras]
    for name in missing:
        yield f"{name} is not installed: pip install 'secateur[{extras[name]}]'"
    for name, there in machine["packed"].items():
        if not there:
            yield f"{name} gives no speed-up here: its product needs a C++ compiler and AVX2"
        elif probes[name] < 1.1:
            yield f"{name} gives no speed-up here: its product is {probes[name]:.2f} times as fast as the dense one"
    yield "zeros alone give no speed-up in torch, ONNX Runtime or llama.cpp: they multiply zeros like any number"
    if machine["gpu"] is None:
        yield "no GPU was found: 2:4 in hardware needs one"

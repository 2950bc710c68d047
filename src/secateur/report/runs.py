"""What a run folder says of a run, whatever its kind, in the one form that pages and cards are made of."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from secateur.core.errors import InputError
from secateur.core.files import read_document

__all__ = ["RECORDS", "read_record", "read_run"]

# The record that each kind of run leaves, and what reads it; the first that a folder holds counts.
RECORDS: Mapping[str, str] = {
    "recover.json": "training after pruning",
    "heads.json": "attention heads",
    "curve.json": "attention heads, a curve",
    "importance.json": "attention heads, scores",
    "ablation.json": "attention heads, ablation",
    "forest.json": "forest",
    "certificate.json": "lottery",
    "finetune.json": "fine-tuning",
    "result.json": "pruning",
}
_LAYER = {"ratio": 1.0, "sparsity": 1.0, "loss": math.inf, "weights": math.inf, "seconds": math.inf}
_BLOCK = re.compile(r"^(.*?\.\d+)\.(.+)$")


def read_run(folder: Path) -> dict[str, Any]:
    """The run that a folder holds: kind, pairs before and after, facts, layers, heads, curves, bars, recipe, versions.

    Raises InputError on a folder without a record, and on a record that no run writes.
    """
    run = read_record(folder)
    if not any(run.get(part) for part in ("pairs", "facts", "layers", "heads", "curves", "bars", "scores")):
        raise InputError(f"{folder} holds a record that no run writes: there is no figure in it that is known")
    return run


def read_record(folder: Path) -> dict[str, Any]:
    """The same, where a record may hold no figure that is known."""
    name = next((name for name in RECORDS if (folder / name).is_file()), None)
    if name is None:
        raise InputError(f"{folder} holds no record of a run: expected one of {', '.join(RECORDS)}")
    record = read_document(folder / name)
    run: dict[str, Any] = {"name": folder.name or str(folder), "folder": str(folder), "kind": RECORDS[name]}
    run |= {"pairs": [], "facts": [], "layers": [], "heads": [], "curves": [], "bars": [], "recipe": "", "versions": {}}
    try:
        reader = _network if name == "result.json" and "macs" in record else _READERS[name]
        reader(run, record, folder)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(f"{folder / name} is not what a run writes: {error!r}") from error
    for label, key, unit in (("time", "seconds", "s"), ("peak memory", "peak_memory_mb", "MB")):
        if record.get(key) is not None:
            run["facts"].append({"label": label, "value": record[key], "unit": unit})
    for words, value in _wrong(run):
        raise InputError(f"{folder / name} is not what a run writes: {words} is {str(value)[:40]!r}")
    run["versions"] = dict(record.get("versions") or {})
    run["recipe"] = run["recipe"] or _yaml(record.get("recipe"))
    return run


def _wrong(run: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every figure that no run comes to, with its name."""
    for pair in run["pairs"]:
        yield from ((f"{pair['label']} {side}", pair[side]) for side in ("before", "after") if not _is(pair[side]))
    for fact in run["facts"]:
        if not _is(fact["value"], most=100.0 if fact["unit"] == "%" else math.inf):
            yield fact["label"], fact["value"]
    for layer in run["layers"]:
        for key, most in _LAYER.items():
            if layer[key] is not None and not _is(layer[key], most=most):
                yield f"{key} of layer {layer['name']}", layer[key]
    yield from _wrong_drawn(run)


def _wrong_drawn(run: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for bar in run["bars"]:
        yield from ((f"{bar['title']} of {row['name']}", row["value"]) for row in bar["rows"] if not _is(row["value"]))
    for curve in run["curves"]:
        points = [point for line in curve["lines"] for point in line["points"]]
        yield from ((curve["title"], one) for point in points for one in point if not _is(one, least=-math.inf))


def _is(value: Any, *, least: float = 0.0, most: float = math.inf) -> bool:
    """Whether a figure is a finite number within bounds."""
    return isinstance(value, int | float) and math.isfinite(value) and least <= value <= most


def _yaml(settings: Any) -> str:
    """Settings as a recipe: what says nothing is left out."""
    if not isinstance(settings, Mapping):
        return ""
    told = {key: value for key, value in settings.items() if value not in (None, {}, [], ())}
    return yaml.safe_dump(told, sort_keys=False, allow_unicode=True)


def _pair(run: dict[str, Any], label: str, before: Any, after: Any, *, unit: str = "", better: str = "") -> None:
    """Add a measure before and after; better: lower or higher, where one is."""
    if before is not None and after is not None:
        run["pairs"].append(
            {"label": label, "before": float(before), "after": float(after), "unit": unit, "better": better}
        )


def _pruned(run: dict[str, Any], record: Mapping[str, Any], folder: Path) -> None:
    """A pruned language model, or one with learned masks."""
    run["model"] = record.get("recipe", {}).get("model") or record.get("model")
    if "parameters" in record and record["parameters"][0]:
        _pair(run, "parameters", *record["parameters"], better="lower")
        _pair(run, "size", *(size / 1e6 for size in record["bytes"]), unit="MB", better="lower")
    held = record.get("held_out") or {}
    _pair(run, "held-out perplexity", held.get("before"), held.get("after"), better="lower")
    if "sparsity" in record:
        run["facts"].append({"label": "block weights removed", "value": 100 * float(record["sparsity"]), "unit": "%"})
    layers = list(record.get("layers") or ())
    for layer in layers:
        block, kind = _split(layer["name"])
        row = {key: layer.get(key) for key in _LAYER}
        run["layers"].append({"name": layer["name"], **row, "block": block, "kind": kind})
    run["heads"] = _kept_heads(folder, layers)
    if candidates := record.get("candidates"):
        rows = [{"name": name, "value": value} for name, value in candidates.items()]
        run["bars"].append({"title": "Held-out loss of each allocation", "unit": "nats a token", "rows": rows})


def _split(name: str) -> tuple[str, str]:
    found = _BLOCK.match(name)
    return (found[1], found[2]) if found else (name, "whole")


def _kept_heads(folder: Path, layers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Kept heads or KV groups by block; how many there were follows from the share that the output layer lost."""
    if not (folder / "cut.json").is_file():
        return []
    lost = {_split(layer["name"])[0]: layer["sparsity"] for layer in layers if _reads_heads(layer["name"])}
    rows: list[dict[str, Any]] = []
    for site, kept in read_document(folder / "cut.json").items():
        block, _, kind = site.rpartition(".")
        if kind in ("kv_groups", "heads") and isinstance(kept, list):
            share = lost.get(block, lost.get(block.rpartition(".")[0], 0.0))
            count = round(len(kept) / (1 - share)) if share < 1 else len(kept)
            rows.append({"name": block, "kind": kind, "kept": kept, "count": max(count, *(one + 1 for one in kept), 1)})
    return rows


def _reads_heads(name: str) -> bool:
    return name.endswith(("o_proj", "out_proj", "c_proj", "attention.dense", "self_attention.dense")) and (
        "mlp" not in name
    )


def _network(run: dict[str, Any], record: Mapping[str, Any], folder: Path) -> None:
    """A network that reads images."""
    run["kind"], run["model"] = "image network", record.get("network")
    measures = (
        ("multiply-accumulates", "macs", 1e6, "M"),
        ("parameters", "params", 1, ""),
        ("size", "bytes", 1e6, "MB"),
    )
    for label, key, scale, unit in measures:
        if isinstance(pair := record.get(key), Sequence):
            _pair(run, label, *(part / scale for part in pair), unit=unit, better="lower")
    top = record.get("top1")
    if isinstance(top, Sequence) and len(top) == 2:
        _pair(run, "top-1", *top, better="higher")
    elif isinstance(top, Mapping):
        _pair(run, "top-1", top.get("before"), top.get("after"), better="higher")
    sites = record.get("sites", {})
    rows = [{"name": name, "value": kept} for name, kept in sites.items() if isinstance(kept, int | float)]
    if rows:
        run["bars"].append({"title": "Channels that remain at each site", "unit": "channels", "rows": rows})


def _heads(run: dict[str, Any], record: Mapping[str, Any], folder: Path) -> None:
    """A model without some of its heads."""
    run["model"] = record.get("model")
    _pair(run, "heads", record["heads_before"], record["heads"], better="lower")
    _pair(run, "parameters", record["parameters_before"], record["parameters"], better="lower")
    better = "lower" if record["metric"] == "perplexity" else "higher"
    _pair(run, str(record["metric"]), record["before"], record["after"], better=better)
    cut = read_document(folder / "cut.json") if (folder / "cut.json").is_file() else {}
    widest = max((max(kept, default=0) + 1 for kept in cut.values() if isinstance(kept, list)), default=1)
    run["heads"] = [
        {"name": site, "kind": "heads", "kept": kept, "count": widest} for site, kept in cut.items() if kept is not None
    ]
    run["recipe"] = _yaml({"command": "heads prune", **{key: record.get(key) for key in ("model", "data", "ratio")}})


def _curve(run: dict[str, Any], record: Mapping[str, Any], folder: Path) -> None:
    """Scores at growing shares of heads removed."""
    run["model"] = record.get("model")
    lines = []
    for name, line in record["lines"].items():
        points = [[0.0, record["dense"]], *([*pair] for pair in zip(record["ratios"], line, strict=True))]
        lines.append({"name": name, "points": points})
    run["curves"].append({"title": "Score without a share of the heads", "x": "share of heads removed", "lines": lines})
    run["curves"][-1] |= {"y": record["metric"], "log": record["metric"] == "perplexity"}


def _head_scores(run: dict[str, Any], record: Mapping[str, Any], folder: Path) -> None:
    """A number for every head."""
    run["model"] = record.get("model")
    key = next(key for key in record["heads"][0] if key not in ("kind", "layer", "head"))
    by_layer: dict[str, list[float]] = {}
    for head in record["heads"]:
        by_layer.setdefault(f"{head['kind']} {head['layer']}", []).append(head[key])
    run["scores"] = {"title": key, "rows": [{"name": name, "values": row} for name, row in by_layer.items()]}


def _forest(run: dict[str, Any], record: Mapping[str, Any], folder: Path) -> None:
    """A forest under feature costs."""
    run["model"] = record.get("model")
    before = record.get("before") or {}
    _pair(run, "cost of a prediction", before.get("cost"), record.get("cost"), better="lower")
    _pair(run, "error", before.get("error"), record.get("error"), better="lower")
    _pair(run, "nodes", before.get("nodes"), record.get("nodes"), better="lower")
    lines = [{"name": "BudgetPruner", "points": [[point["cost"], point["error"]] for point in record.get("path", [])]}]
    for name, points in (record.get("peers") or {}).items():
        lines.append({"name": name, "points": [[point["cost"], point["error"]] for point in points]})
    if any(line["points"] for line in lines):
        run["curves"].append({"title": "Error against cost", "x": "mean cost of a prediction", "y": "error"})
        run["curves"][-1] |= {"lines": lines, "log": False}
    if use := record.get("use"):
        ranked = sorted(use.items(), key=lambda pair: -pair[1])
        rows = [{"name": name, "value": share} for name, share in ranked if share]
        run["bars"].append({"title": "Share of examples that need a feature", "unit": "share", "rows": rows})


def _lottery(run: dict[str, Any], record: Mapping[str, Any], folder: Path) -> None:
    """A network found inside a random one."""
    run["model"] = record.get("target")
    found = record["certificate"]
    for label, value in (("error allowed", found["eps"]), ("error proved", found["bound"]), ("found", found["found"])):
        run["facts"].append({"label": label, "value": value, "unit": ""})
    run["facts"].append({"label": "random weights", "value": record["random_weights"], "unit": ""})
    for key, title in (("width", "promised"), ("reached", "reached"), ("kept", "kept")):
        rows = [{"name": f"{one['inputs']} to {one['outputs']}", "value": one[key]} for one in record["layers"]]
        run["bars"].append({"title": f"Intermediate neurons {title}", "unit": "neurons", "rows": rows})


def _recovered(run: dict[str, Any], record: Mapping[str, Any], folder: Path) -> None:
    """A model that was trained after pruning."""
    run["model"] = record.get("model")
    _pair(run, "held-out loss", record["before"], record["after"], unit="nats a token", better="lower")
    settings = {"model": record.get("model"), "text": record.get("text"), "teacher": record.get("teacher")}
    run["recipe"] = _yaml({"command": "recover", **settings, **record.get("training", {})})


def _finetuned(run: dict[str, Any], record: Mapping[str, Any], folder: Path) -> None:
    """A classifier."""
    run["model"] = record.get("model")
    for key in ("accuracy", "loss", "examples"):
        if isinstance(record.get(key), int | float):
            run["facts"].append({"label": key, "value": record[key], "unit": ""})


_READERS: Mapping[str, Callable[[dict[str, Any], Mapping[str, Any], Path], None]] = {
    "recover.json": _recovered,
    "heads.json": _heads,
    "curve.json": _curve,
    "importance.json": _head_scores,
    "ablation.json": _head_scores,
    "forest.json": _forest,
    "certificate.json": _lottery,
    "finetune.json": _finetuned,
    "result.json": _pruned,
}

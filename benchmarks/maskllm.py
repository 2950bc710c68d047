"""2:4 masks that are learned (MaskLLM) against one-shot masks, on SmolLM2-135M: perplexity, tokens, minutes.

    .venv/bin/python benchmarks/maskllm.py --train train.txt --test news=news.txt --steps 100 500

Training text and test text never overlap. `--test` adds a text to measure, such as one of another domain, to see what
masks cost outside of theirs. Results are written after every run; runs that the file holds are not repeated.
"""

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.calibrate.bundled import bundled_text
from secateur.calibrate.data import Calibration
from secateur.calibrate.stream import StreamSettings
from secateur.core.mask import Masks
from secateur.evaluate.perplexity import token_losses
from secateur.masks.learn import MaskTask, learn_masks
from secateur.masks.maskllm import MaskSettings
from secateur.masks.write import refitted
from secateur.run.prune import prune
from secateur.run.recipe import Recipe
from secateur.storage.open_model import open_model
from secateur.storage.source import Source, load_tokenizer, load_with_head, resolve

DATA = Path(__file__).parents[2] / "shared" / "data" / "text"
LENGTH, WINDOWS = 1024, 32


@torch.no_grad()
def perplexity(source: Source, texts: dict[str, str], weights: dict[str, Tensor] | None = None) -> dict[str, float]:
    """Perplexity on the first windows of every text; weights: those of layers that were refitted."""
    model = load_with_head(source, torch.float32)
    for name, own in (weights or {}).items():
        model.get_submodule(name).get_parameter("weight").copy_(own)
    tokenizer: Any = load_tokenizer(source)
    found = {}
    for name, text in texts.items():
        ids = tokenizer(text, return_tensors="pt")["input_ids"][0]
        windows = ids[: len(ids) // LENGTH * LENGTH].reshape(-1, LENGTH)[:WINDOWS]
        losses = torch.cat([token_losses(model, part[None]).flatten() for part in windows])
        found[name] = math.exp(float(losses.double().mean()))
    return found


def one_shot(method: str, model: Source, train: Path, room: Path) -> dict[str, Any]:
    """A one-shot method on 16 windows of the training text."""
    result = prune(model, Recipe(method=method, pattern="2:4", calibration=Calibration(source=str(train))), room)
    return {"tokens": result.calibration_tokens, "minutes": result.seconds / 60}


def learned(run: dict[str, Any], model: Source, train: Path, room: Path) -> dict[str, Any]:
    """MaskLLM end to end or a block at a time."""
    settings = MaskSettings(steps=run["steps"], batch=run.get("batch", 2), length=run.get("length", 256))
    task = MaskTask(settings=settings, prior=run["prior"], scope=run["scope"])
    result = learn_masks(model, str(train), room, task)
    each = {"looks": result["looks"]} if "looks" in result else {"blocks": result["blocks"]}
    passes = run["steps"] * settings.batch * settings.length
    return {"tokens": passes, "minutes": result["seconds"] / 60, "device": result["device"], **each}


def refit(source: Source, room: Path, train: Path, texts: dict[str, str]) -> dict[str, Any]:
    """The same masks with weights that fit the dense layers' outputs under them."""
    started = time.perf_counter()
    ids = Calibration(source=str(train), length=LENGTH).draw(load_tokenizer(source))
    weights = refitted(open_model(source), Masks.load(room / "masks.safetensors").keep, ids, StreamSettings(), steps=20)
    minutes = (time.perf_counter() - started) / 60
    return {"refit": {"perplexity": perplexity(source, texts, weights), "minutes": minutes}}


def planned(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """The runs that the command line asks for."""
    runs: list[dict[str, Any]] = [{"method": name} for name in chosen.methods]
    for prior in chosen.priors:
        for scope in chosen.scopes:
            steps = [60] if scope == "block" else chosen.steps
            runs += [{"method": "maskllm", "scope": scope, "steps": count, "prior": prior} for count in steps]
    return [run if run["method"] in ("dense", "magnitude") else run | {"train": chosen.train.name} for run in runs]


def main() -> None:
    """Every run, and what it is measured by."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="bundled:smollm2")
    parser.add_argument("--train", type=Path, default=DATA / "wikitext2-valid.txt")
    parser.add_argument("--test", nargs="*", default=[], metavar="NAME=FILE", help="more texts to measure")
    parser.add_argument("--methods", nargs="*", default=["dense", "magnitude", "wanda", "sparsegpt"])
    parser.add_argument("--steps", type=int, nargs="*", default=[100, 500])
    parser.add_argument("--scopes", nargs="*", default=["block", "model"])
    parser.add_argument("--priors", nargs="*", default=["sparsegpt"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/maskllm.json"))
    chosen = parser.parse_args()
    train: Path = chosen.train
    texts = {"wikitext2": (DATA / "wikitext2-test.txt").read_text(), "wikipedia": bundled_text("evaluation")}
    texts |= {name: Path(file).read_text() for name, file in (pair.split("=", 1) for pair in chosen.test)}
    source = resolve(chosen.model)
    runs = planned(chosen)
    results: list[dict[str, Any]] = json.loads(chosen.out.read_text()) if chosen.out.exists() else []
    for run in runs:
        if any(all(done.get(key) == value for key, value in run.items()) for done in results):
            continue
        with tempfile.TemporaryDirectory() as folder:
            room, started = Path(folder) / "out", time.perf_counter()
            told: dict[str, Any] = {}
            if run["method"] == "maskllm":
                told = learned(run, source, train, room)
            elif run["method"] != "dense":
                told = one_shot(run["method"], source, train, room)
            pruned = source if run["method"] == "dense" else Source(room)
            results.append({**run, **told, "perplexity": perplexity(pruned, texts)})
            if run["method"] == "maskllm":
                results[-1] |= refit(source, room, train, texts)
        chosen.out.write_text(json.dumps(results, indent=1) + "\n")
        print(json.dumps({**run, **results[-1]["perplexity"], "s": time.perf_counter() - started}), flush=True)


if __name__ == "__main__":
    main()

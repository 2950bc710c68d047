"""Heads of a fine-tuned encoder and of a decoder: curves, cost of importance, speed of the half-sized model.

Writes benchmarks/results/heads.json. Give part names (train encoder cost speed decoder embedding) to run those alone;
finished parts are kept. The classifier is trained once, into out/heads-sst2.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from secateur.core.seed import generator
from secateur.export.onnx import write_forward_onnx
from secateur.heads.ablation import ablate, keep_one
from secateur.heads.curve import Curve, head_curve
from secateur.heads.finetune import finetune
from secateur.heads.prune import prune_heads
from secateur.heads.removal import RemovalOptions, plan_removal
from secateur.heads.scoring import Scoring, score_heads
from secateur.heads.table import correlate
from secateur.heads.task_model import DataOptions, TaskModel, open_task_model
from secateur.score.gates import gated
from secateur.storage.source import Source, load_as_saved
from secateur.tasks.answers import pooled
from secateur.tasks.classification import Example, text_batches
from secateur.tasks.task import score
from secateur.train.classifier import Finetuning

HERE = Path(__file__).parent
RESULT = HERE / "results" / "heads.json"
DATA = HERE.parent.parent / "shared" / "data"
TRAIN, DEV = str(DATA / "sst2" / "train.tsv"), str(DATA / "sst2" / "dev.tsv")
VALID, TEST = str(DATA / "text" / "wikitext2-valid.txt"), str(DATA / "text" / "wikitext2-test.txt")
MODEL = HERE.parent / "out" / "heads-sst2"
Run = Callable[[np.ndarray, np.ndarray], Any]
STEPS = [number / 10 for number in range(1, 11)]
SCORED = DataOptions(samples=1000)


def orders(*, extra: bool = True) -> dict[str, RemovalOptions]:
    """Orders of removal that are compared."""
    found = {"importance": RemovalOptions(), "magnitude": RemovalOptions(scoring=Scoring(score="magnitude"))}
    if extra:
        found["importance, once an example"] = RemovalOptions(scoring=Scoring(level="example"))
        found["importance, re-estimated"] = RemovalOptions(reestimate=True)
        found["importance, not normalised, re-estimated"] = RemovalOptions(
            reestimate=True, scoring=Scoring(level="example", normalise=False)
        )
    return found | {f"random {seed}": RemovalOptions(scoring=Scoring(score="random", seed=seed)) for seed in range(5)}


def summed(curve: Curve) -> dict[str, Any]:
    """A curve as plain data, chance as mean and deviation."""
    document = curve.to_dict()
    chance = np.array([scores for name, scores in curve.lines.items() if name.startswith("random")])
    document["random"] = {"mean": chance.mean(0).tolist(), "std": chance.std(0).tolist(), "seeds": len(chance)}
    return document


def train() -> dict[str, Any] | None:
    """Fine-tune once."""
    if MODEL.exists():
        return None
    started = time.perf_counter()
    plan = Finetuning()
    found = finetune("bundled:minilm", TRAIN, MODEL, plan, test=DEV)
    return found | {"seconds": time.perf_counter() - started}


def encoder() -> dict[str, Any]:
    """Curves, single heads, correlations."""
    task_model = open_task_model(MODEL)
    data, test = task_model.read(TRAIN, SCORED), task_model.read(DEV)
    started = time.perf_counter()
    curve = head_curve(task_model, data, test, STEPS, orders())
    seconds = time.perf_counter() - started
    alone, single = ablate(task_model, test), keep_one(task_model, test)
    inside = ablate(task_model, data)
    return {
        "curve": summed(curve),
        "seconds": seconds,
        "single_heads_that_lose_significantly": sum(
            one.p < 0.01 and one.change < 0 for row in alone.changes for one in row
        ),
        "single_heads_that_gain_significantly": sum(
            one.p < 0.01 and one.change > 0 for row in alone.changes for one in row
        ),
        "best_single_head_by_layer": [one.change for _, one in single.best(higher=True)],
        "ablation_train_against_dev": correlate(alone.effects, inside.effects),
        "importance_against_ablation": correlate(
            score_heads(task_model, data, Scoring()), [-row for row in inside.effects]
        ),
        "importance_train_against_dev": correlate(
            score_heads(task_model, data, Scoring()), score_heads(task_model, test, Scoring())
        ),
    }


def cost() -> dict[str, Any]:
    """Importance against forward passes, in turns."""
    task_model = open_task_model(MODEL)
    data = task_model.read(TRAIN, SCORED)
    rounds = []
    for _ in range(5):
        started = time.perf_counter()
        score_heads(task_model, data, Scoring())
        middle = time.perf_counter()
        data.parts(task_model.model)
        rounds.append((middle - started, time.perf_counter() - middle))
    ratio = statistics.median(scored / forward for scored, forward in rounds)
    return {"sentences": 1000, "rounds": rounds, "forward_passes": ratio}


def speed(length: int = 128) -> dict[str, Any]:
    """The model with half its heads against the whole one, in torch and ONNX Runtime."""
    with tempfile.TemporaryDirectory() as room:
        small = Path(room) / "half"
        pruned = prune_heads(open_task_model(MODEL), (TRAIN, DEV), small, 0.5, data_options=SCORED)
        models = [load_as_saved(Source(MODEL)), load_as_saved(Source(small))]
        batch = open_task_model(MODEL).read(DEV, DataOptions(samples=4)).batches[0]
        sessions = []
        for number, model in enumerate(models):
            place = Path(room) / str(number)
            place.mkdir()
            write_forward_onnx(model, batch, place)
            sessions.append(_session(place))
        sizes = [model.num_parameters() * 4 / 2**20 for model in models]
        found = {"length": length, "accuracy": [pruned["before"], pruned["after"]], "weights_mb": sizes}
        kept = {key: pruned[key] for key in ("heads", "heads_before", "heads_by_attention")}
        for engine, runs in (("torch", [_torch(model) for model in models]), ("onnxruntime", sessions)):
            found[engine] = {str(size): _compare(runs, size, length) for size in (1, 4, 16, 64)}
        return found | kept


def _torch(model: Any) -> Run:
    @torch.inference_mode()
    def run(ids: np.ndarray, mask: np.ndarray) -> None:
        model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))

    return run


def _session(folder: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(folder / "model.onnx", options)
    return lambda ids, mask: session.run(None, {"input_ids": ids, "attention_mask": mask})


def _compare(runs: list[Run], size: int, length: int, rounds: int = 7) -> dict[str, float]:
    """Both take turns; medians of examples a second."""
    ids = torch.randint(1000, 30000, (size, length), generator=generator(0, "speed", size)).numpy()
    mask = np.ones_like(ids)
    repeats = max(1, 64 // size)
    times = [[], []]
    for turn in range(rounds + 1):
        for side in (0, 1):
            started = time.perf_counter()
            for _ in range(repeats):
                runs[side](ids, mask)
            if turn:  # the first turn warms up
                times[side].append((time.perf_counter() - started) / repeats)
    dense, pruned = (size / statistics.median(side) for side in times)
    return {"dense": dense, "pruned": pruned, "gain": pruned / dense - 1}


def decoder() -> dict[str, Any]:
    """SmolLM2: KV groups, and query heads in balance."""
    found = {}
    for unit in ("kv_groups", "heads"):
        task_model = open_task_model("bundled:smollm2", unit=unit)
        data, test = task_model.read(VALID, DataOptions(samples=8)), task_model.read(TEST, DataOptions(samples=8))
        ratios = [0.1, 0.2, 0.3, 0.4, 0.5]
        chosen = orders(extra=False) | {"importance, re-estimated": RemovalOptions(reestimate=True)}
        found[unit] = summed(head_curve(task_model, data, test, ratios, chosen))
    return found


def pairs(path: str, limit: int) -> tuple[list[str], list[str]]:
    """The first two sentences of paragraphs of five words or more each."""
    found: list[tuple[str, str]] = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        one, *rest = line.strip().split(" . ")
        if rest and not one.startswith("=") and min(len(one.split()), len(rest[0].split())) >= 5:
            found.append((one, rest[0]))
    one, two = zip(*found[:limit], strict=True)
    return list(one), list(two)


def embedding() -> dict[str, Any]:
    """MiniLM as it embeds: cosine to the dense model, and second sentences of paragraphs found by their first."""
    with tempfile.TemporaryDirectory() as folder:
        calibration, others = Path(folder) / "valid.txt", Path(folder) / "test.txt"
        calibration.write_text("\n".join(pairs(VALID, 500)[0]))
        sentences = pairs(TEST, 1000)
        others.write_text("\n".join(sentences[0] + sentences[1]))
        task_model = open_task_model("bundled:minilm")
        scored, judged = task_model.read(str(calibration)), task_model.read(str(others))
        asked = [[Example(text, None, None) for text in side] for side in sentences]
        results: dict[str, Any] = {"pairs": len(asked[0]), "calibration": 500}

        def hits() -> float:
            one, two = (_embedded(task_model, side) for side in asked)
            return float(((one @ two.T).argmax(dim=1) == torch.arange(len(one))).double().mean())

        results["dense"] = hits()
        for name, plan in orders().items():
            masks = plan_removal(task_model, scored, STEPS[:6], plan)
            for ratio, keep in zip(STEPS, masks, strict=False):
                with gated(task_model.attentions, [kept.float() for kept in keep]):
                    found = {"cosine": score(judged, task_model.model), "found": hits()}
                results.setdefault(name, {})[f"{ratio:.1f}"] = found
                print(name, ratio, found, flush=True)
    return results


def _embedded(task_model: TaskModel, examples: list[Example]) -> torch.Tensor:
    """Embeddings in the order of the examples."""
    assert task_model.tokenizer is not None
    rows = torch.empty(len(examples), task_model.model.config.hidden_size)
    with torch.no_grad():
        for chosen, made in text_batches(examples, task_model.model, task_model.tokenizer, batch=32, length=256):
            rows[chosen] = pooled(task_model.model, made)
    return rows


PARTS = {"train": train, "encoder": encoder, "cost": cost, "speed": speed, "decoder": decoder, "embedding": embedding}


def main() -> None:
    """Run the named parts."""
    done = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name in sys.argv[1:] or PARTS:
        result = PARTS[name]()
        if result is not None:
            done[name] = result | {"threads": torch.get_num_threads()}
        done["command"] = "python benchmarks/heads.py"
        done["torch"] = torch.__version__
        RESULT.write_text(json.dumps(done, indent=1) + "\n")
        print(name, json.dumps(result)[:300], flush=True)


if __name__ == "__main__":
    main()

"""A step of learned masks against a step of dense training: seconds and memory, on SmolLM2-135M.

    .venv/bin/python benchmarks/mask_step.py

Each kind of step runs in a process of its own, 2 windows of 256 tokens, Adam on all layers of the blocks; the kinds
take turns. Memory is the process's peak after three steps, less what the loaded model takes.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from secateur.machine.device import autocasting
from secateur.machine.memory import peak_memory_mb
from secateur.masks.maskllm import LearnedMasks, MaskedTokens, MaskSettings
from secateur.storage.source import open_whole, resolve
from secateur.train.loop import Cosine, Descent, Loop
from secateur.train.objective import mixed_loss, next_token_logits

KINDS = ("dense", "masked", "masked and taught")
STEPS = 4


def measure(kind: str, half: bool) -> dict[str, float]:
    """Seconds of a step, and MB beyond the loaded model."""
    structure = open_whole(resolve("bundled:smollm2"), torch.float32)
    model: Any = structure.model
    loaded = peak_memory_mb()
    ids = torch.randint(3, 40_000, (2, 256), generator=torch.Generator().manual_seed(0))
    if kind == "dense":
        parameters = [layer.module.get_parameter("weight") for layer in structure.layers]

        def objective(batch: Any, step: int) -> torch.Tensor:
            with autocasting(torch.device("cpu"), half=half):
                return mixed_loss(next_token_logits(model, batch), batch[:, 1:].flatten(), None, 0.0)

        adam = torch.optim.AdamW(parameters, lr=1e-5, fused=True)
        times = _times(Loop(parameters, objective, [Descent(adam, Cosine(STEPS))]), ids)
    else:
        settings = MaskSettings(steps=STEPS, teaching=0.5 if "taught" in kind else 0.0)
        masks = LearnedMasks(structure.layers, settings)
        with masks.attached():
            times = _times(masks.loop(MaskedTokens(model, masks, half=half)), ids)
    return {"seconds": min(times[1:]), "mb": peak_memory_mb() - loaded}


def _times(loop: Loop, ids: torch.Tensor) -> list[float]:
    times = []
    for _ in range(STEPS):
        started = time.perf_counter()
        loop.step(ids)
        times.append(time.perf_counter() - started)
    return times


def main() -> None:
    """Every kind in turns, in both precisions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/mask_step.json"))
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(measure(chosen.one[0], chosen.one[1] == "bfloat16")))
        return
    results: dict[str, Any] = {}
    for precision in ("float32", "bfloat16"):
        runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
        for _ in range(chosen.rounds):
            for kind in KINDS:
                line = [sys.executable, __file__, "--one", kind, precision]
                runs[kind].append(json.loads(subprocess.run(line, check=True, capture_output=True).stdout))
        middle = {
            kind: {name: statistics.median(run[name] for run in own) for name in ("seconds", "mb")}
            for kind, own in runs.items()
        }
        for own in middle.values():
            own |= {f"times dense {name}": own[name] / middle["dense"][name] for name in ("seconds", "mb")}
        results[precision] = middle
        print(precision, json.dumps(middle, indent=1), flush=True)
    chosen.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

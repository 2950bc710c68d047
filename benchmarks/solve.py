"""SparseGPT side by side: ours, the authors' class, llm-compressor. Time, memory, perplexity.

Contenders take turns, round after round, each in a fresh process on the same ids:

    python benchmarks/solve.py --text ../shared/data/text/wikitext2-valid.txt \\
        --test ../shared/data/text/wikitext2-test.txt --rounds 2 \\
        --script PATH/TO/sparsegpt.py --llmcompressor PATH/TO/VENV/bin/python

A contender whose script or interpreter is not given is left out and said to be.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from secateur.calibrate.data import Calibration
from secateur.evaluate.measure import measure
from secateur.evaluate.perplexity import Perplexity
from secateur.storage.source import Source, load_tokenizer, resolve

HERE = Path(__file__).parent


def contenders(args: argparse.Namespace) -> dict[str, list[str]]:
    """Command prefix and extra arguments of everyone who can run here."""
    found = {"ours": [sys.executable, "ours"], "ours, mixed": [sys.executable, "ours", "--dtype", "mixed"]}
    if args.script:
        found["reference"] = [sys.executable, "reference", "--script", args.script]
    if args.llmcompressor:
        found["llmcompressor"] = [args.llmcompressor, "llmcompressor"]
    return found


def run_once(command: list[str], model: Path, ids: Path, out: Path) -> dict[str, Any]:
    """Run one contender in a fresh process and read its line."""
    python, name, *extra = command
    shutil.rmtree(out, ignore_errors=True)
    line = [python, str(HERE / "peers.py"), name, str(model), str(ids), str(out), *extra]
    done = subprocess.run(line, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", default="bundled", help="calibration text")
    parser.add_argument("--test", default="bundled", help="perplexity text")
    parser.add_argument("--model", default="bundled:smollm2")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--script", help="the authors' sparsegpt.py")
    parser.add_argument("--llmcompressor", help="a Python that has llm-compressor")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "solve.json")
    args = parser.parse_args()
    model, text = resolve(args.model).folder, Perplexity(source=args.test, length=1024, limit=16)
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as room:
        ids = Path(room) / "ids.safetensors"
        save_file({"ids": Calibration(source=args.text).draw(load_tokenizer(Source(model)))}, ids)
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders(args)}
        for _ in range(args.rounds):
            for name, command in contenders(args).items():
                runs[name].append(run_once(command, model, ids, Path(room) / name))
                print(json.dumps(runs[name][-1]), flush=True)
        for name, done in runs.items():
            seconds = [run["seconds"] for run in done]
            rows[name] = {
                "seconds": seconds,
                "median_seconds": statistics.median(seconds),
                "peak_memory_mb": max(run["peak_memory_mb"] for run in done),
                **measure(Path(room) / name, text),
            }
        rows["dense"] = measure(model, text)
    for name, row in rows.items():
        if "seconds" in row:
            row["speedup_of_ours"] = round(row["median_seconds"] / rows["ours"]["median_seconds"], 2)
        print(name, json.dumps(row))
    machine = {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    machine |= {"capability": torch.backends.cpu.get_cpu_capability(), "torch": torch.__version__}
    command = f"python {' '.join(Path(part).name if '/' in part else part for part in sys.argv)}"
    setting = "50% unstructured, 16 x 1,024 tokens, float32 or mixed"
    document = {"command": command, "setting": setting, "machine": machine}
    args.out.write_text(json.dumps({**document, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()

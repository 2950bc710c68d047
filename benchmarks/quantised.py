"""Shrunk and quantised: size, perplexity and speed of GGUF files, all in llama.cpp.

    pip install 'secateur[llamacpp]'
    python benchmarks/quantised.py --text ../shared/data/text/wikitext2-valid.txt \\
        --test ../shared/data/text/wikitext2-test.txt

Writes benchmarks/results/quantised.json: SmolLM2, and less 25% of its block weights by
recipes/slimgpt-channels-25.yaml calibrated on --text. Perplexity on the first 8 x 1,024 tokens, every window from its
own start; speed is the median of three turns, files taking turns, 256 tokens of prompt and 64 decoded.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from secateur.evaluate.latency import llama_cpp_speed
from secateur.export.convert import convert
from secateur.export.gguf import QUANTIZATIONS
from secateur.run.prune import prune
from secateur.run.recipe import load_recipe
from secateur.storage.source import load_tokenizer, resolve

HERE = Path(__file__).parent
RESULT = HERE / "results" / "quantised.json"
WINDOWS, LENGTH, ROUNDS = 8, 1024, 3


def perplexity(file: Path, ids: list[int]) -> float:
    """exp of the mean loss of all tokens but each window's first."""
    from llama_cpp import Llama

    engine: Any = Llama(str(file), n_ctx=LENGTH, logits_all=True, verbose=False)
    losses: list[Any] = []
    for start in range(0, WINDOWS * LENGTH, LENGTH):
        window = ids[start : start + LENGTH]
        engine.reset()
        engine.eval(window)
        logits = np.array(engine.scores[: LENGTH - 1], dtype=np.float64)
        top = logits.max(1, keepdims=True)
        normal = np.log(np.exp(logits - top).sum(1)) + top[:, 0]
        losses.append(normal - logits[np.arange(LENGTH - 1), window[1:]])
    engine.close()
    return math.exp(float(np.concatenate(losses).mean()))


def main() -> None:
    """Every model in every quantization."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", required=True)
    parser.add_argument("--test", required=True)
    args = parser.parse_args()
    tokenizer: Any = load_tokenizer(resolve("bundled:smollm2"))
    ids = tokenizer(Path(args.test).read_text(), add_special_tokens=False)["input_ids"][: WINDOWS * LENGTH]
    rows = []
    with tempfile.TemporaryDirectory() as room:
        less = Path(room) / "less"
        recipe = load_recipe(HERE.parent / "recipes" / "slimgpt-channels-25.yaml")
        prune("bundled:smollm2", replace(recipe, calibration=replace(recipe.calibration, source=args.text)), less)
        models = {"dense": "bundled:smollm2", "less 25%": str(less)}
        for name, model in models.items():
            for quantize in QUANTIZATIONS:
                file = convert(model, "gguf", Path(room) / f"{len(rows)}.gguf", quantize=quantize)
                size = file.stat().st_size / 1e6
                rows.append({"model": name, "quantize": quantize, "mb": size, "perplexity": perplexity(file, ids)})
                print(rows[-1], flush=True)
        turns: dict[int, list[Any]] = {}
        for _ in range(ROUNDS):
            for number in range(len(rows)):
                turns.setdefault(number, []).append(llama_cpp_speed(Path(room) / f"{number}.gguf", 256, 64))
        for row, speeds in zip(rows, turns.values(), strict=True):
            row |= {"prefill": statistics.median(one[0] for one in speeds)}
            row |= {"decode": statistics.median(one[1] for one in speeds)}
            print(row, flush=True)
    result = {"command": " ".join(["python", *sys.argv]), "windows": WINDOWS, "length": LENGTH, "rows": rows}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

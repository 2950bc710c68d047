"""Solvers side by side at equal zeros: perplexity on held-out text, on another text, summed layer loss, and time.

    python benchmarks/solvers.py --text ../shared/data/text/wikitext2-valid.txt \\
        --test ../shared/data/text/wikitext2-test.txt --other NEWS.txt --settings 0.5 0.6 0.7 2:4 --seeds 0 1 2

Every solver calibrates on the same windows. Rows that the output file already holds are not repeated.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from secateur import Calibration, Perplexity, Recipe, measure, prune

HERE = Path(__file__).parent
RECIPES: dict[str, dict[str, Any]] = {
    "wanda": {"method": "wanda"},
    "sparsegpt": {"method": "sparsegpt"},
    "sparsegpt, mixed": {"method": "sparsegpt", "dtype": "mixed"},
    "sparsegpt + cg": {"method": "sparsegpt", "refit": "cg"},
    "slimgpt": {"method": "slimgpt"},
    "admm": {"method": "admm"},
    "sparsegpt + match": {"method": "sparsegpt", "match": "dense"},
    "admm + match": {"method": "admm", "match": "dense"},
    "admm + match + reconstruct": {"method": "admm", "match": "dense", "reconstruct": {"steps": 30}},
    "wanda + reconstruct": {"method": "wanda", "reconstruct": {"steps": 30}},
    "sparsegpt + reconstruct": {"method": "sparsegpt", "reconstruct": {"steps": 30}},
    "admm + reconstruct": {"method": "admm", "reconstruct": {"steps": 30}},
}


def setting(text: str) -> dict[str, Any]:
    """A ratio, or an n:m pattern."""
    return {"pattern": text} if ":" in text else {"ratio": float(text)}


def main() -> None:
    """Every row; the file is written after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled:smollm2")
    parser.add_argument("--text", default="bundled", help="calibration text")
    parser.add_argument("--test", default="bundled", help="perplexity text")
    parser.add_argument("--other", help="another text")
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES))
    parser.add_argument("--settings", nargs="*", default=["0.5"])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--allocator", default="uniform")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "solvers.json")
    args = parser.parse_args()
    known = json.loads(args.out.read_text()) if args.out.exists() else {"rows": {}}
    data: dict[str, Any] = known | {name: getattr(args, name) for name in ("model", "samples", "windows")}
    texts = {"perplexity": args.test} | ({"other": args.other} if args.other else {})

    def judge(model: str | Path) -> dict[str, float]:
        found = {
            name: measure(model, Perplexity(source=text, length=1024, limit=args.windows))["perplexity"]
            for name, text in texts.items()
        }
        return {name: round(value, 3) for name, value in found.items()}

    if "dense" not in data["rows"]:
        data["rows"]["dense"] = judge(args.model)
    for seed in args.seeds:
        drawn = Calibration(source=args.text, samples=args.samples, seed=seed)
        for where in args.settings:
            for name in args.recipes:
                key = f"{name}, {where}, {args.allocator}, seed {seed}"
                if key in data["rows"]:
                    continue
                own = {"dtype": "float32"} | RECIPES[name] | setting(where)
                recipe = Recipe(**own, allocator=args.allocator, calibration=drawn)
                with tempfile.TemporaryDirectory() as room:
                    result = prune(args.model, recipe, f"{room}/out")
                    row = {"removed": round(result.sparsity, 5), "seconds": round(result.seconds, 1)}
                    row |= {"threads": torch.get_num_threads(), **judge(result.out)}
                losses = [layer.loss for layer in result.layers if layer.loss is not None]
                data["rows"][key] = row | ({"loss": round(sum(losses), 1)} if losses else {})
                args.out.write_text(json.dumps(data, indent=1) + "\n")
                print(key, json.dumps(data["rows"][key]), flush=True)


if __name__ == "__main__":
    main()

"""How much where: every allocator under one solver, on one model, at several ratios.

    python benchmarks/allocate.py --text ../shared/data/text/wikitext2-valid.txt \\
        --test ../shared/data/text/wikitext2-test.txt --methods wanda sparsegpt --ratios 0.5 0.6 0.7 --seeds 0 1 2

Every row prunes, saves, loads again and measures; results are written after each, and rows that the
output file already holds are not repeated.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from shrink import row

from secateur import Calibration, Recipe

ALLOCATORS: dict[str, Any] = {
    "uniform": "uniform",
    "owl": "owl",
    "alpha": "alpha",
    "als": "als",
    "als smooth": {"name": "als", "smooth": True},
    "als within": {"name": "als", "within": True, "reach": 0.05},
    "dsa published": "dsa",
    "ranking": "ranking",
    "knapsack": "knapsack",
}


def main() -> None:
    """Measure every row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", default="bundled", help="calibration text")
    parser.add_argument("--test", default="bundled", help="perplexity text")
    parser.add_argument("--model", default="bundled:smollm2")
    parser.add_argument("--methods", nargs="+", default=["wanda"])
    parser.add_argument("--allocators", nargs="+", default=list(ALLOCATORS), choices=list(ALLOCATORS))
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.7, 0.6, 0.5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", default=str(Path(__file__).parent / "results" / "allocate.json"))
    args = parser.parse_args()
    out = Path(args.out)
    rows: dict[str, Any] = json.loads(out.read_text())["rows"] if out.exists() else {}
    for seed in args.seeds:
        for method in args.methods:
            for ratio in args.ratios:
                for name in args.allocators:
                    key = f"{method} {ratio:g} {name}, seed {seed}"
                    if key not in rows:
                        data = Calibration(source=args.text, samples=16, length=1024, seed=seed)
                        recipe = Recipe(method=method, ratio=ratio, allocate=ALLOCATORS[name], calibration=data)
                        rows[key] = row(args.model, recipe, args.test, windows=8)
                        print(key, json.dumps(rows[key]), flush=True)
                        out.write_text(json.dumps({"model": args.model, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()

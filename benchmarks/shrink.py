"""Physical shrinking of one model: methods, repair and allocation at several ratios.

    python benchmarks/shrink.py --text ../shared/data/text/wikitext2-valid.txt \\
        --test ../shared/data/text/wikitext2-test.txt \\
        --tasks ../shared/data/zeroshot/{arc_easy,piqa,copa,lambada_openai}.jsonl

Every row prunes, saves, loads again and measures; results are written after each, and
rows that the output file already holds are not repeated, unless they lack tasks asked for.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from secateur import Calibration, Perplexity, Recipe, measure, prune

ROWS: dict[str, dict[str, Any]] = {
    "slimgpt incremental": {"method": "slimgpt", "allocator": "incremental"},
    "slimgpt uniform": {"method": "slimgpt"},
    "slimgpt incremental, channels only": {"method": "slimgpt", "allocator": "incremental", "pattern": "channels"},
    "slimgpt uniform, channels only": {"method": "slimgpt", "pattern": "channels"},
    "slimgpt knapsack": {"method": "slimgpt", "allocator": "unit-knapsack"},
    "slimgpt knapsack, channels only": {
        "method": "slimgpt",
        "allocator": {"name": "unit-knapsack", "sites": "ffn"},
        "pattern": "channels",
    },
    "wanda, repaired": {"method": "refit", "pattern": "heads+channels"},
    "wanda": {"method": "wanda", "pattern": "heads+channels"},
    "magnitude, repaired": {"method": {"name": "refit", "score": "magnitude"}, "pattern": "heads+channels"},
    "magnitude": {"method": "magnitude", "pattern": "heads+channels"},
    "taylor, repaired": {"method": {"name": "refit", "score": "taylor"}, "pattern": "heads+channels"},
    "taylor": {"method": "taylor"},
    "fluctuation, repaired": {"method": {"name": "refit", "score": "fluctuation"}, "pattern": "heads+channels"},
    "fluctuation": {"method": "fluctuation"},
    "flap": {"method": "flap"},
    "shortgpt": {"method": "shortgpt"},
    "random": {"method": "random"},
}
AT_A_QUARTER: dict[str, dict[str, Any]] = {
    "slimgpt incremental, diagonal reading": {
        "method": {"name": "slimgpt", "reading": "diagonal"},
        "allocator": "incremental",
    },
    **{
        f"random, seed {seed}": {"method": {"name": "random", "score": {"name": "random", "seed": seed}}}
        for seed in range(1, 5)
    },
}


def row(
    model: str, recipe: Recipe, test: str, *, windows: int = 16, tasks: Sequence[Path] = (), limit: int | None = None
) -> dict[str, Any]:
    """Prune and measure once; nothing stays on disk."""
    with tempfile.TemporaryDirectory() as room:
        result = prune(model, recipe, f"{room}/out")
        found: dict[str, Any] = {"seconds": round(result.seconds, 1), "removed": round(result.sparsity, 4)}
        for name, text in (("wikitext2", test), ("bundled", "bundled")):
            asked = Perplexity(source=text, length=1024, limit=windows)
            found[name] = round(measure(result.out, asked)["perplexity"], 2)
        if tasks:
            scores = measure(result.out, tasks=tasks, limit=limit)["tasks"]
            found["tasks"] = {name: round(score["acc"], 3) for name, score in scores.items()}
        return found


def main() -> None:
    """Measure every row at every ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", default="bundled", help="calibration text")
    parser.add_argument("--test", default="bundled", help="perplexity text")
    parser.add_argument("--tasks", type=Path, nargs="*", default=[], help=".jsonl questions")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--model", default="bundled:smollm2")
    parser.add_argument("--rows", nargs="+", help="names of the rows to measure; all unless given")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.25, 0.5, 0.2, 0.3])
    parser.add_argument("--out", default=str(Path(__file__).parent / "results" / "shrink.json"))
    args = parser.parse_args()
    out = Path(args.out)
    results: dict[str, Any] = {"model": args.model, "limit": args.limit, "rows": {}}
    if out.exists():
        results = json.loads(out.read_text()) | {"model": args.model, "limit": args.limit}
    data = Calibration(source=args.text, samples=16, length=1024)
    for ratio in args.ratios:
        for name, settings in (ROWS | (AT_A_QUARTER if ratio == 0.25 else {})).items():
            before = results["rows"].get(str(ratio), {}).get(name, {})
            wanted = not args.rows or name in args.rows
            if not wanted or (before and ("tasks" in before or not args.tasks)):
                continue
            recipe = Recipe(**settings, ratio=ratio, calibration=data)
            found = row(args.model, recipe, args.test, tasks=args.tasks, limit=args.limit)
            results["rows"].setdefault(str(ratio), {})[name] = found
            print(ratio, name, json.dumps(found), flush=True)
            out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

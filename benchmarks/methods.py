"""Perplexity, time and memory of every fast method and pattern at 50% on one model.

    python benchmarks/methods.py --text ../shared/data/text/wikitext2-valid.txt \\
        --test ../shared/data/text/wikitext2-test.txt --tasks ../shared/data/zeroshot/arc_easy.jsonl
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from secateur import Calibration, Perplexity, Recipe, measure, prune

HERE = Path(__file__).parent
RUNS = [
    ("wanda", "row"),
    ("sparsegpt", "2:4"),
    ("wanda", "2:4"),
    ("ria", "unstructured"),
    ("magnitude", "unstructured"),
]


def main() -> None:
    """Measure every row and write the JSON after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled:smollm2")
    parser.add_argument("--text", default="bundled", help="calibration text")
    parser.add_argument("--test", default="bundled", help="perplexity text")
    parser.add_argument("--tasks", type=Path, action="append", default=[])
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "methods.json")
    args = parser.parse_args()

    def judge(model: str | Path) -> dict[str, Any]:
        return measure(model, Perplexity(source=args.test, length=1024, limit=16), args.tasks, limit=args.limit)

    rows: list[dict[str, Any]] = [{"method": "dense", **judge(args.model)}]
    for method, pattern in RUNS:
        with tempfile.TemporaryDirectory() as room:
            ratio = None if ":" in pattern else 0.5
            recipe = Recipe(method=method, pattern=pattern, ratio=ratio, calibration=Calibration(source=args.text))
            result = prune(args.model, recipe, f"{room}/out")
            row = {
                "method": method,
                "pattern": pattern,
                "sparsity": result.sparsity,
                "seconds": round(result.seconds, 1),
            }
            rows.append({**row, **judge(result.out)})
        print(json.dumps(rows[-1]), flush=True)
        document = {"setting": f"{args.model}, 50%, 16 x 1,024 tokens, first {args.limit} rows a task", "rows": rows}
        document["command"] = (
            f"python benchmarks/methods.py --text {Path(args.text).name} --test {Path(args.test).name} "
            + " ".join(f"--tasks {path.name}" for path in args.tasks)
        )
        args.out.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()

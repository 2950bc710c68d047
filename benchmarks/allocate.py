"""How much where: every allocator under two solvers, at several ratios and calibration seeds.

    python benchmarks/allocate.py --text ../shared/data/text/wikitext2-valid.txt \\
        --test ../shared/data/text/wikitext2-test.txt

An allocator reads the model once a seed, and its ratios for every target follow from that. Every row
prunes, saves, loads again and measures; results are written after each, and rows that the output file
already holds are not repeated. `dsa searched` comes from `secateur search` on the bundled text.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from secateur import Calibration, Perplexity, Recipe, measure, prune
from secateur.run.allocate import survey_model

ALLOCATORS: dict[str, Any] = {
    "uniform": "uniform",
    "knapsack": "knapsack",
    "dsa published": "dsa",
    "owl": "owl",
    "als": "als",
    "alpha": "alpha",
    "ranking": "ranking",
}


def allocations(model: str, name: str, data: Calibration, ratios: list[float]) -> dict[float, dict[str, float]]:
    """An allocator's ratios by layer at every target, from one pass over the model."""
    recipe = Recipe(method="wanda", ratio=ratios[0], allocator=ALLOCATORS[name], calibration=data)
    found = survey_model(model, recipe)
    return {ratio: dict(found.ratios(ratio).ratios) for ratio in ratios}


class Results:
    """The output file: rows by name."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Go on with the file if it is there."""
        self.args = args
        self.path = Path(args.out)
        known = json.loads(self.path.read_text()) if self.path.exists() else {"rows": {}}
        self.data: dict[str, Any] = known | {
            name: getattr(args, name) for name in ("model", "samples", "length", "windows")
        }

    def missing(self, label: str, seed: int) -> list[tuple[str, float, str]]:
        """Methods, ratios and names of rows that are not there yet."""
        every = [(m, r, f"{m} {r:g} {label}, seed {seed}") for m in self.args.methods for r in self.args.ratios]
        return [one for one in every if one[2] not in self.data["rows"]]

    def add(self, key: str, method: str, ratio: float, data: Calibration, ratios: dict[str, float]) -> None:
        """Prune and measure once; nothing but the row stays on disk."""
        recipe = Recipe(method=method, ratio=ratio, ratios=ratios, calibration=data)
        with tempfile.TemporaryDirectory() as room:
            result = prune(self.args.model, recipe, f"{room}/out")
            text = Perplexity(source=self.args.test, length=1024, limit=self.args.windows)
            found = measure(result.out, text)["perplexity"]
        self.data["rows"][key] = {"removed": round(result.sparsity, 5), "perplexity": round(found, 2)}
        print(key, json.dumps(self.data["rows"][key]), flush=True)
        self.path.write_text(json.dumps(self.data, indent=2) + "\n")


def table(rows: dict[str, Any]) -> str:
    """Markdown: mean perplexity over seeds, plus or minus the standard deviation where there are several."""
    cells: dict[str, dict[str, list[float]]] = {}
    for key, found in rows.items():
        method, ratio, label = key.rpartition(", seed")[0].split(" ", 2)
        cells.setdefault(label, {}).setdefault(f"{method} {float(ratio):.0%}", []).append(found["perplexity"])
    columns = sorted({column for row in cells.values() for column in row}, key=lambda name: (name[0] != "w", name))
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for label, row in cells.items():
        lines.append(f"| {label} | " + " | ".join(_mean(row.get(column, [])) for column in columns) + " |")
    return "\n".join(lines)


def _mean(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}" if values else ""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", default="bundled", help="calibration text")
    parser.add_argument("--test", default="bundled", help="perplexity text")
    parser.add_argument("--model", default="bundled:smollm2")
    parser.add_argument("--methods", nargs="+", default=["wanda", "sparsegpt"])
    parser.add_argument("--allocators", nargs="*", default=list(ALLOCATORS), choices=list(ALLOCATORS))
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.7, 0.6, 0.5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--windows", type=int, default=8, help="test windows of 1,024 tokens")
    parser.add_argument("--given", nargs=2, action="append", default=[], metavar=("NAME", "FILE"), help="saved ratios")
    parser.add_argument("--out", default=str(Path(__file__).parent / "results" / "allocate.json"))
    return parser.parse_args()


def main() -> None:
    """Measure every row."""
    args = arguments()
    results = Results(args)
    given = {label: json.loads(Path(path).read_text()) for label, path in args.given}
    for seed in args.seeds:
        data = Calibration(source=args.text, samples=args.samples, length=args.length, seed=seed)
        for allocator in args.allocators:
            if rows := results.missing(allocator, seed):
                found = allocations(args.model, allocator, data, args.ratios)
                for method, ratio, key in rows:
                    results.add(key, method, ratio, data, found[ratio])
        for label, ratios in given.items():
            for method, ratio, key in results.missing(label, seed):
                results.add(key, method, ratio, data, ratios)
    print(table(results.data["rows"]))


if __name__ == "__main__":
    main()

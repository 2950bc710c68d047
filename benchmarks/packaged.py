"""Write src/secateur/advise/measured.json, the figures that `secateur advise` cites, from benchmarks/results.

python benchmarks/packaged.py [--check]; nothing is measured here. --check ends with exit code 1 where the file differs.
"""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent
TARGET = ROOT.parent / "src" / "secateur" / "advise" / "measured.json"
SHRUNK = {  # rows of shrink.json, and the recipe of each
    "slimgpt incremental, channels only": "--method slimgpt --pattern channels --allocator incremental",
    "slimgpt knapsack, channels only": "--method slimgpt --pattern channels --allocator unit-knapsack",
    "slimgpt uniform, channels only": "--method slimgpt --pattern channels",
    "slimgpt incremental": "--method slimgpt --allocator incremental",
    "slimgpt uniform": "--method slimgpt",
    "flap": "--method flap",
    "taylor": "--method taylor",
    "shortgpt": "--method shortgpt",
    "wanda": "--method wanda --pattern heads+channels",
}


def results(name: str) -> Any:
    """One file of benchmarks/results."""
    return json.loads((ROOT / "results" / f"{name}.json").read_text())


def rows() -> list[dict[str, Any]]:
    """Every figure: options, what it removes, ratio, perplexity, seconds, and the file it is from."""
    solve, methods, solvers, shrink = (results(name) for name in ("solve", "methods", "solvers", "shrink"))
    dense = methods["rows"][0]["perplexity"]
    found = [row("--method sparsegpt", "zeros", 0.5, (solve["rows"]["ours"], dense), "solve")]
    found[0]["seconds"] = solve["rows"]["ours"]["median_seconds"]
    for one in methods["rows"][1:]:
        kind = "2:4" if one["pattern"] == "2:4" else "zeros"
        options = f"--method {one['method']}" + (" --pattern 2:4" if kind == "2:4" else "")
        found.append(row(options, kind, 0.5, (one, dense), "methods"))
    known = solvers["rows"]
    for name, options, kind, ratio in (
        ("admm, 0.5, uniform, seed 0", "--method admm", "zeros", 0.5),
        ("admm, 2:4, uniform, seed 0", "--method admm --pattern 2:4", "2:4", 0.5),
        ("admm, 0.7, auto, seed 0", "--method admm --allocator auto", "zeros", 0.7),
        ("sparsegpt, 0.7, uniform, seed 0", "--method sparsegpt", "zeros", 0.7),
    ):
        found.append(row(options, kind, ratio, (known[name], known["dense"]["perplexity"]), "solvers"))
    for ratio, measured in shrink["rows"].items():
        for name, options in SHRUNK.items():
            if name in measured:
                one = measured[name] | {"perplexity": measured[name]["wikitext2"]}
                found.append(row(options, "smaller", float(ratio), (one, dense), "shrink"))
    return found


def row(options: str, kind: str, ratio: float, figures: tuple[Any, float], source: str) -> dict[str, Any]:
    """One figure; seconds where they were measured."""
    one, dense = figures
    told = {"options": options, "kind": kind, "ratio": ratio, "perplexity": round(one["perplexity"], 2)}
    seconds = one.get("seconds")
    return told | {"dense": round(dense, 2), "seconds": seconds if isinstance(seconds, float) else None, "from": source}


def page() -> str:
    """The file's text."""
    about = {"model": "SmolLM2-135M-Instruct", "text": "WikiText-2 (test)", "block_weights": 106168320, "tokens": 16384}
    return json.dumps({**about, "rows": rows()}, indent=1) + "\n"


if __name__ == "__main__":
    if "--check" in sys.argv:
        raise SystemExit(0 if TARGET.read_text() == page() else f"run python benchmarks/packaged.py: {TARGET} differs")
    TARGET.write_text(page())

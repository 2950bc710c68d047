"""ALS's fields: the loss of SmolLM2 masked by Wanda's ranks at its ratios, on the bundled text.

    python benchmarks/als.py --text ../shared/data/text/wikitext2-valid.txt

All layers are masked at once on dense statistics, as in a search's trial; nothing is pruned or saved.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from secateur import Calibration, Recipe
from secateur.allocate.als import ALS
from secateur.run.allocate import survey_model
from secateur.search.trial import Trials, prepare
from secateur.storage.source import load_tokenizer, resolve

FIELDS: list[dict[str, Any]] = [
    *({"source": "update", "reach": reach} for reach in (0.05, 0.1, 0.2)),
    *({"source": "input", "reach": reach} for reach in (0.05, 0.2)),
    {"source": "output", "reach": 0.05},
    {"source": "update", "centred": True, "reach": 0.05},
    {"source": "update", "smooth": True},
    {"source": "update", "within": True, "reach": 0.05},
]


def main() -> None:
    """Measure every choice at every ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", default="bundled", help="calibration text")
    parser.add_argument("--model", default="bundled:smollm2")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.6, 0.7])
    parser.add_argument("--out", default=str(Path(__file__).parent / "results" / "als.json"))
    args = parser.parse_args()
    source = resolve(args.model)
    tokenizer = load_tokenizer(source)
    ids = Calibration(source=args.text, samples=8, length=512).draw(tokenizer)
    judged = Calibration(samples=4, length=1024, seed=7).draw(tokenizer)
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as room:
        prepare(source, Recipe(method="wanda", ratio=0.6), ids, Path(room))
        trials = Trials(source, Path(room), judged, 2)
        uniform = (dict.fromkeys(trials.problem.blocks, ratio) for ratio in args.ratios)
        rows["uniform"] = [round(trials.fitness(ratios), 3) for ratios in uniform]
        summaries: dict[ALS, Any] = {}
        for fields in FIELDS:
            method = ALS(**fields)
            kind = replace(method, reach=None, smooth=False)
            if kind not in summaries:
                recipe = Recipe(ratio=0.6, allocator={"name": "als", **vars(kind)})
                summaries = {kind: survey_model(source, recipe, ids=ids).problem}  # activations are large: keep one
            found = (method.allocate(summaries[kind], ratio).ratios for ratio in args.ratios)
            rows[json.dumps(fields)] = [round(trials.fitness(ratios), 3) for ratios in found]
            print(fields, rows[json.dumps(fields)], flush=True)
            Path(args.out).write_text(
                json.dumps({"command": " ".join(sys.argv), "ratios": args.ratios, "nats a token": rows}, indent=2)
                + "\n"
            )


if __name__ == "__main__":
    main()

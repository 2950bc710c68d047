"""What an allocator costs: its pass over the model beside a plain calibration pass, and a search's trial.

    python benchmarks/survey.py --text ../shared/data/text/wikitext2-valid.txt

Everything takes turns in one process; medians of the rounds, and ratios to the plain pass.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from allocate import ALLOCATORS
from secateur import Calibration, Recipe
from secateur.allocate.expression import PUBLISHED, parse
from secateur.calibrate.survey import survey
from secateur.run.allocate import open_stream, survey_model
from secateur.run.plan import stream_settings
from secateur.search.trial import Trials, prepare
from secateur.storage.source import load_tokenizer, resolve


def main() -> None:
    """Time every pass and a trial."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", default="bundled", help="calibration text")
    parser.add_argument("--model", default="bundled:smollm2")
    parser.add_argument("--allocators", nargs="+", default=[name for name in ALLOCATORS if name != "uniform"])
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--eval-samples", type=int, default=2, help="samples a trial is judged on")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", default=str(Path(__file__).parent / "results" / "survey.json"))
    args = parser.parse_args()
    source = resolve(args.model)
    ids = Calibration(source=args.text, samples=args.samples, length=args.length).draw(load_tokenizer(source))
    judged = ids[: args.eval_samples]
    opened = survey_model(source, Recipe(ratio=0.6)).opened

    def plain() -> None:
        with open_stream(opened.structure, stream_settings(Recipe(ratio=0.6)), ids) as stream:
            survey(stream, opened, (), lambda: None, lambda view: None, lambda done, total: None)

    def reads(name: str) -> Callable[[], Any]:
        return lambda: survey_model(source, Recipe(ratio=0.6, allocator=ALLOCATORS[name]), ids=ids).ratios()

    with tempfile.TemporaryDirectory() as room:
        ranks = Path(room) / "ranks"
        prepare(source, Recipe(method="wanda", ratio=0.6), ids, ranks)
        trials = Trials(source, ranks, judged, 2)
        trials.reduced(parse(PUBLISHED))  # most candidates share what was reduced before
        half = dict.fromkeys(trials.problem.blocks, 0.6)
        jobs: dict[str, Callable[[], Any]] = {"plain pass": plain, "search trial": lambda: trials.fitness(half)}
        jobs |= {name: reads(name) for name in args.allocators}
        turns: dict[str, list[float]] = {name: [] for name in jobs}
        for _ in range(args.rounds):
            for name, job in jobs.items():
                started = time.perf_counter()
                job()
                turns[name].append(time.perf_counter() - started)
                print(name, round(turns[name][-1], 2), flush=True)
    medians = {name: statistics.median(values) for name, values in turns.items()}
    found: dict[str, Any] = {
        name: getattr(args, name) for name in ("model", "samples", "length", "eval_samples", "rounds")
    }
    found["threads"] = torch.get_num_threads()
    found["seconds"] = {name: round(value, 2) for name, value in medians.items()}
    found["times the plain pass"] = {name: round(value / medians["plain pass"], 2) for name, value in medians.items()}
    Path(args.out).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()

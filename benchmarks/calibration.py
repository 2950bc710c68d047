"""What a SlimGPT run costs beside the forward passes of its calibration alone.

    python benchmarks/calibration.py --text ../shared/data/text/wikitext2-valid.txt

Both stream the same blocks over the same tokens, in turns, in one process.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from secateur import Calibration, Recipe, prune
from secateur.run.allocate import open_stream
from secateur.run.depth import block_influence
from secateur.run.plan import stream_settings
from secateur.storage.open_model import open_model
from secateur.storage.source import load_tokenizer, resolve


def main() -> None:
    """Time both, write and print the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", default="bundled")
    parser.add_argument("--model", default="bundled:smollm2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", default=str(Path(__file__).parent / "results" / "calibration.json"))
    args = parser.parse_args()
    data = Calibration(source=args.text, samples=16, length=1024)
    source = resolve(args.model)
    ids = data.draw(load_tokenizer(source))
    recipe = Recipe(method="slimgpt", ratio=0.25, allocator="incremental")
    forward, whole = [], []
    for _ in range(args.rounds):
        started = time.perf_counter()
        opened = open_model(source)
        with open_stream(opened.structure, stream_settings(recipe), ids) as stream:
            block_influence(stream, opened, lambda done, total: None)
        forward.append(time.perf_counter() - started)
        folder = Path(tempfile.mkdtemp())
        whole.append(prune(args.model, recipe, folder / "out", ids=ids).seconds)
        shutil.rmtree(folder)
        print(forward[-1], whole[-1], flush=True)
    found = {
        "forward_seconds": round(statistics.median(forward), 1),
        "prune_seconds": round(statistics.median(whole), 1),
        "ratio": round(statistics.median(whole) / statistics.median(forward), 2),
        "rounds": args.rounds,
        "tokens": ids.numel(),
    }
    Path(args.out).write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()

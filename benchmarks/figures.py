"""Draw the figures of the README and docs from benchmarks/results: python benchmarks/figures.py [NAME ...].

Nothing is measured here. Each figure is written to docs/figures as .png and .svg.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from secateur.report.style import COLOURS, End, figure_of, name_lines, save_both

ROOT = Path(__file__).parent
OUT = ROOT.parent / "docs" / "figures"
SHRINK = {  # rows of shrink.json, and what a reader calls them
    "slimgpt incremental, channels only": "SlimGPT, FFN channels",
    "slimgpt incremental": "SlimGPT, heads and channels",
    "fluctuation, repaired": "FLAP's score, repaired",
    "wanda, repaired": "Wanda's score, repaired",
    "taylor, repaired": "Taylor (LLM-Pruner), repaired",
    "shortgpt": "ShortGPT, whole blocks",
}


def results(name: str) -> Any:
    """One file of benchmarks/results."""
    return json.loads((ROOT / "results" / f"{name}.json").read_text())


def shrink() -> Any:
    """Perplexity against the share of block weights that structured methods remove."""
    rows: Mapping[str, Any] = results("shrink")["rows"]
    dense = results("methods")["rows"][0]["perplexity"]
    figure, axes = figure_of((8.4, 4.4))
    axes.set(yscale="log", ylim=(18, 130), xlim=(-0.01, 0.52))
    ends = {}
    for colour, (row, name) in zip(COLOURS, SHRINK.items(), strict=False):
        points = [(0.0, dense)] + [(float(ratio), rows[ratio][row]["wikitext2"]) for ratio in sorted(rows, key=float)]
        inside = [point for point in points if point[1] <= 130]
        wide = 2.6 if row.startswith("slimgpt") else 1.4
        axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=3.5, linewidth=wide)
        if inside == points:
            ends[name] = End(*inside[-1], colour)
            continue
        # The line leaves the frame: its name stands beside its last stretch.
        left = row == "shortgpt"
        axes.text(0.288 if left else 0.425, 112, name, color=colour, fontsize=9, ha="right" if left else "left")
    axes.set_title("SmolLM2-135M, pruned without retraining: what a smaller model costs", fontsize=11, loc="left")
    axes.set(xlabel="share of block weights physically removed", ylabel="perplexity on WikiText-2 (lower is better)")
    axes.set_xticks([0, 0.2, 0.25, 0.3, 0.5], ["0%\n(dense)", "20%", "25%", "30%", "50%"])
    axes.set_yticks([20, 30, 40, 60, 80, 120], ["20", "30", "40", "60", "80", "120"])
    axes.minorticks_off()
    name_lines(axes, ends)
    return figure


FIGURES: dict[str, Callable[[], Any]] = {"shrink": shrink}


def main() -> None:
    """Draw the named figures, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*FIGURES, []])
    for name in parser.parse_args().names or FIGURES:
        save_both(FIGURES[name](), OUT / name)
        print(OUT / name)


if __name__ == "__main__":
    main()

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


def allocation() -> Any:
    """Perplexity of SparseGPT with each allocation: the mean of three seeds, and every seed."""
    rows: Mapping[str, Any] = results("allocate")["rows"]
    names = {"knapsack": "knapsack (ours)", "dsa searched": "DSA, searched", "als": "ALS", "uniform": "uniform"}
    names |= {"dsa published": "DSA, published", "owl": "OWL"}
    figure, axes = figure_of((8.0, 3.4))
    for colour, ratio in zip(COLOURS, ("0.6", "0.7"), strict=False):
        for place, name in enumerate(names):
            seeds = [rows[f"sparsegpt {ratio} {name}, seed {seed}"]["perplexity"] for seed in range(3)]
            mean = sum(seeds) / 3
            axes.plot([mean], [place], "o", color=colour, markersize=8)
            axes.plot(seeds, [place] * 3, "|", color=colour, markersize=12)
            axes.annotate(f"{mean:.1f}", (mean, place), (0, 8), textcoords="offset points", ha="center", fontsize=8)
        axes.text(mean, -1.0, f"{float(ratio):.0%} removed", color=colour, ha="center", fontsize=9, weight="bold")
    axes.set_yticks(range(len(names)), list(names.values()))
    axes.set(ylim=(len(names) - 0.5, -1.4), xlim=(40, 125), xlabel="perplexity on WikiText-2 (lower is better)")
    axes.set_title("SparseGPT on SmolLM2-135M: ratios per layer, mean and three seeds", fontsize=11, loc="left")
    return figure


def heads() -> Any:
    """Accuracy against the share of heads removed, with the band of five random orders."""
    curve = results("heads")["encoder"]["curve"]
    ratios = [0.0, *curve["ratios"]]
    figure, axes = figure_of((8.4, 4.0))
    axes.set(ylim=(0.48, 0.9), xlim=(-0.01, 1.01))
    names = {
        "importance, re-estimated": "importance, re-estimated",
        "importance": "importance",
        "magnitude": "magnitude",
    }
    lines = {label: [curve["dense"], *curve["lines"][name]] for name, label in names.items()}
    random = [[curve["dense"], *line] for name, line in curve["lines"].items() if name.startswith("random")]
    low, high = ([act(values) for values in zip(*random, strict=True)] for act in (min, max))
    axes.fill_between(ratios, low, high, color=COLOURS[6], alpha=0.15, linewidth=0)
    lines["random, mean of 5 (band: all)"] = [sum(values) / len(random) for values in zip(*random, strict=True)]
    places = (0.75, 0.7, 0.62, 0.8)  # where a line's name points, as all lines meet at the end
    ends = {}
    for colour, (name, line), at in zip((*COLOURS[:3], COLOURS[6]), lines.items(), places, strict=True):
        axes.plot(ratios, line, color=colour, linewidth=2.4 if name.startswith("importance,") else 1.5)
        near = min(range(len(ratios)), key=lambda place, at=at: abs(ratios[place] - at))
        ends[name] = End(ratios[near], line[near], colour)
    axes.axhline(curve["dense"], linestyle="--", color="gray", linewidth=0.8)
    axes.text(1.0, curve["dense"] + 0.005, "all heads", color="gray", fontsize=9, ha="right")
    axes.set_title("MiniLM on SST-2: accuracy without a share of its 72 heads", fontsize=11, loc="left")
    axes.set(xlabel="share of heads removed", ylabel="accuracy of 872 held-out sentences")
    axes.xaxis.set_major_formatter("{x:.0%}")
    name_lines(axes, ends)
    return figure


def forests() -> Any:
    """Area under error against cost of every data set and method; lower is better."""
    curves = results("forest")["curves"]
    names = {
        "features, then BudgetPruner, on the same rows": "features, then BudgetPruner",
        "BudgetPruner": "BudgetPruner, all features",
        "fewer trees": "fewer trees",
        "ccp_alpha": "cost-complexity (ccp_alpha)",
    }
    figure, axes = figure_of((8.4, 5.0))
    for colour, (name, label) in zip(COLOURS, names.items(), strict=False):
        axes.plot(
            [curve["area"][name] for curve in curves.values()], range(len(curves)), "o", color=colour, label=label
        )
    axes.set_yticks(range(len(curves)), list(curves))
    axes.invert_yaxis()
    axes.set(xlabel="area under error against cost (lower is better)", xlim=(0, None))
    axes.set_title("Forests of 40 trees: what a cheap prediction costs in error", fontsize=11, loc="left")
    figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=2)
    return figure


def widths() -> Any:
    """Random neurons for every input of the digits network against the error allowed."""
    digits = results("lottery")["digits"]
    exponents = [1, 2, 3, 4, 5, 6]
    names = {
        "per weight": "golden intervals, per weight",
        "each neuron once": "golden intervals, each neuron once",
        "per input": "golden intervals, per input",
        "batch": "golden intervals, shared (ours)",
        "subset sum per input (Pensia)": "subset sums, per input (Pensia)",
        "subset sum, batch": "subset sums, shared (ours)",
    }
    figure, axes = figure_of((8.4, 4.4))
    axes.set(yscale="log", ylim=(50, 2e5), xlim=(0.9, 6.1))
    ends = {}
    for colour, (name, label) in zip(COLOURS, names.items(), strict=False):
        line = digits["width_factors"][name]
        axes.plot(exponents, line, color=colour, linewidth=3 if "ours" in label else 1.4, marker="o", markersize=3.5)
        ends[label] = End(6, line[-1], colour)
    axes.set_title("Random neurons for every input of a 64-32-10 network", fontsize=11, loc="left")
    axes.set(xlabel="largest error allowed", ylabel="promised neurons for every input")
    axes.set_xticks(exponents, [f"$10^{{-{digit}}}$" for digit in exponents])
    axes.text(1.0, 5.5e4 * 2.2, "one pair a weight (Malach): 3e11 and more, above the frame", fontsize=8, color="gray")
    name_lines(axes, ends)
    return figure


FIGURES: dict[str, Callable[[], Any]] = {
    "shrink": shrink,
    "allocation": allocation,
    "heads": heads,
    "forests": forests,
    "lottery-widths": widths,
}


def main() -> None:
    """Draw the named figures, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*FIGURES, []])
    for name in parser.parse_args().names or FIGURES:
        save_both(FIGURES[name](), OUT / name)
        print(OUT / name)


if __name__ == "__main__":
    main()

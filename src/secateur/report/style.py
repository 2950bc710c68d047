"""One style for every figure: a colour-blind palette, names at the lines, no frame where nothing is read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = ["COLOURS", "End", "clean", "figure_of", "name_lines", "save_both"]

# Okabe and Ito 2008: told apart by readers of every kind of colour vision, and in grey.
COLOURS: Sequence[str] = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
_GAP = 0.052  # of the axes' height between two names
_SIZE = 9


class End(NamedTuple):
    """Where a line ends, and the colour of its name."""

    x: float
    y: float
    colour: str


def figure_of(inches: tuple[float, float] = (8.0, 4.4)) -> tuple[Any, Any]:
    """A figure and its cleaned axes. Needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, layout="constrained")
    axes = figure.subplots()
    clean(axes)
    return figure, axes


def clean(axes: Any) -> None:
    """Take the top and right spines off and put the grid behind what is drawn."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def name_lines(axes: Any, ends: Mapping[str, End]) -> None:
    """Write each line's name right of its end; names that would overlap are moved apart.

    Call it once limits and scales are set.
    """
    places = {name: _height(axes, end) for name, end in ends.items()}
    for name, place in _apart(places).items():
        end = ends[name]
        axes.annotate(
            name,
            xy=(end.x, end.y),
            xytext=(1.02, place),
            textcoords="axes fraction",
            color=end.colour,
            fontsize=_SIZE,
            va="center",
            annotation_clip=False,
            parse_math=False,
            arrowprops={"arrowstyle": "-", "color": end.colour, "linewidth": 0.5, "alpha": 0.6},
        )


def _height(axes: Any, end: End) -> float:
    _, pixels = axes.transData.transform((end.x, end.y))
    _, share = axes.transAxes.inverted().transform((0.0, pixels))
    return float(np.clip(share, 0.0, 1.0))


def _apart(places: Mapping[str, float]) -> dict[str, float]:
    """The same heights, at least a gap apart, moved as one stack back into the axes where they leave it."""
    ranked = sorted(places, key=lambda name: places[name])
    heights: list[float] = []
    for name in ranked:
        heights.append(max(places[name], heights[-1] + _GAP) if heights else places[name])
    over = max(0.0, heights[-1] - 1.0) if heights else 0.0
    for at in range(len(heights) - 1, -1, -1):  # the top ones move down, and push those below only where they touch
        limit = heights[at + 1] - _GAP if at + 1 < len(heights) else heights[at] - over
        heights[at] = min(heights[at], limit)
    return dict(zip(ranked, heights, strict=True))


def save_both(figure: Any, stem: Path) -> None:
    """Write STEM.png and STEM.svg; equal figures give equal bytes."""
    import matplotlib

    stem.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(stem.with_suffix(".png"), dpi=150, metadata={"Software": None})
    with matplotlib.rc_context({"svg.hashsalt": "secateur", "svg.fonttype": "path"}):
        figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})

"""Matplotlib figures, one function a figure; each returns a Figure that `save_figure` writes whole."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from secateur.core.errors import InputError
from secateur.core.files import new_file, storage_errors
from secateur.report.style import COLOURS, clean

__all__ = [
    "correlation_figure",
    "as_text",
    "curve_figure",
    "heads_figure",
    "need_figures",
    "history_figure",
    "new_axes",
    "ratios_figure",
    "save_figure",
]

_INCHES = (8.0, 4.0)
_WHOLE = "whole block"


def ratios_figure(blocks: Mapping[str, Mapping[str, int]], ratios: Mapping[str, float], title: str = "") -> Any:
    """Ratios as a heat map, a row a kind of matrix and a column a block; whole blocks as a line of their means.

    blocks: weights by layer, by block, in forward order; ratios by layer name. A layer named as its block is all of it.
    """
    kinds = list(dict.fromkeys(_kind(name, block) for block, layers in blocks.items() for name in layers))
    if kinds == [_WHOLE]:
        figure, axes = new_axes()
        axes.plot(range(len(blocks)), [ratios[block] for block in blocks], color="C0", marker="o", markersize=4)
        axes.set(xlabel="block", ylabel="share removed", ylim=(0, None), title=_wrapped(title))
        return figure
    matrix = np.full((len(kinds) + 1, len(blocks)), np.nan)
    for column, (block, layers) in enumerate(blocks.items()):
        for name in layers:
            matrix[kinds.index(_kind(name, block)), column] = ratios[name]
        matrix[-1, column] = sum(ratios[name] * size for name, size in layers.items()) / sum(layers.values())
    figure, axes = new_axes((2.5 + 0.28 * max(len(blocks), 12), 1.6 + 0.32 * len(matrix)))
    image = axes.imshow(matrix, aspect="auto", cmap="viridis_r")
    figure.colorbar(image, label="share removed")
    axes.set_yticks(range(len(matrix)), [*map(as_text, kinds), "whole block"], fontsize="small")
    axes.set(xlabel="block", title=_wrapped(title))
    axes.grid(visible=False)
    return figure


def _kind(name: str, block: str) -> str:
    return _WHOLE if name == block else name.removeprefix(f"{block}.")


def correlation_figure(matrix: Float[np.ndarray, "count count"], title: str = "") -> Any:
    """How much every block's activations repeat every other's: 0 independent, 1 redundant (ALS)."""
    figure, axes = new_axes((5.5, 4.5))
    image = axes.imshow(matrix, vmin=0.0, vmax=1.0, cmap="viridis")
    axes.grid(visible=False)
    figure.colorbar(image, label="correlation")
    axes.set(xlabel="block", ylabel="block", title=_wrapped(title))
    return figure


def history_figure(history: Sequence[tuple[float, str]], uniform: float, title: str = "") -> Any:
    """Fitness of every trial in order, the best so far, and uniform's; candidates without a value are left out."""
    figure, axes = new_axes()
    values = np.array([value for value, _ in history], dtype=float)
    known = np.isfinite(values)
    numbers = np.arange(len(values))
    axes.scatter(numbers[known], values[known], s=14, color=COLOURS[0], label="trial")
    if known.any():
        best = np.minimum.accumulate(np.where(known, values, np.inf))
        axes.step(numbers[np.isfinite(best)], best[np.isfinite(best)], where="post", color="black", label="best so far")
        axes.set_ylim(top=float(np.quantile(values[known], 0.9)) + 0.1 * float(np.ptp(values[known]) or 1.0))
    axes.axhline(uniform, linestyle="--", color="gray", label="uniform")
    axes.set(xlabel="trial", ylabel="loss, nats a token", title=_wrapped(title))
    axes.legend(fontsize="small")
    return figure


def heads_figure(
    scores: Sequence[Sequence[float]], labels: Sequence[str], title: str = "", *, signed: bool = False
) -> Any:
    """Heat map of heads: a row a layer, a column a head; layers with fewer heads end earlier.

    signed: colours are centred on 0, as of changes of a score; others are scores of heads.
    """
    widest = max(map(len, scores))
    matrix = np.full((len(scores), widest), np.nan)
    for row, values in enumerate(scores):
        matrix[row, : len(values)] = values
    figure, axes = new_axes((2.0 + 0.4 * max(widest, 8), 1.5 + 0.3 * max(len(scores), 6)))
    bound = float(np.nanmax(np.abs(matrix))) or 1.0
    colours: dict[str, Any] = {"cmap": "RdBu", "vmin": -bound, "vmax": bound} if signed else {"cmap": "viridis"}
    label = "change of the score without the head" if signed else "importance of the head"
    figure.colorbar(axes.imshow(matrix, aspect="auto", **colours), label=label)
    axes.grid(visible=False)
    axes.set(xlabel="head", ylabel="layer", title=_wrapped(title))
    axes.set_yticks(range(len(labels)), list(map(as_text, labels)), fontsize="x-small")
    return figure


def curve_figure(ratios: Sequence[float], dense: float, lines: Mapping[str, Sequence[float]], metric: str = "") -> Any:
    """Score against the share removed, from the dense score at ratios[0]; lines called NAME NUMBER are one family."""
    figure, axes = new_axes()
    families: dict[str, str] = {}
    for name, scores in lines.items():
        family = name.rstrip("0123456789").strip()
        first = families.setdefault(family, COLOURS[len(families) % len(COLOURS)])
        known = family in [line.get_label() for line in axes.lines]
        style: dict[str, Any] = {"linewidth": 1.0, "alpha": 0.6} if family != name else {"marker": "o", "markersize": 3}
        axes.plot(ratios, [dense, *scores], color=first, label="_" if known else family, **style)
    axes.axhline(dense, linestyle="--", color="gray", label="all heads")
    if metric == "perplexity":
        axes.set_yscale("log")
    axes.set(xlabel="share of heads removed", ylabel=metric)
    axes.set_title("Without a share of the heads", loc="left")
    axes.legend(fontsize="small", frameon=False)
    return figure


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure under its name once it is whole; the suffix tells the format (png, svg, pdf)."""
    try:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with new_file(path) as room:
                figure.savefig(room, format=path.suffix.removeprefix(".") or "png", dpi=150)
    except ValueError as error:
        raise InputError(f"figure {path} cannot be written: {str(error).splitlines()[0]}") from error


def as_text(words: str) -> str:
    """Words as a figure shows them: file and feature names hold $, which starts a formula."""
    return words.replace("$", r"\$")


def _wrapped(title: str) -> str:
    return as_text(textwrap.fill(title, 75))


def need_figures() -> None:
    """Raise InputError without matplotlib, before work that would end in figures."""
    try:
        import matplotlib.figure  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise InputError("figures need matplotlib: pip install 'secateur[report]'") from error


def new_axes(inches: tuple[float, float] = _INCHES) -> tuple[Any, Any]:
    """A figure and its axes. Raises InputError without matplotlib."""
    need_figures()
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, layout="constrained")
    axes = figure.subplots()
    axes.set_prop_cycle(color=list(COLOURS))
    clean(axes)
    return figure, axes

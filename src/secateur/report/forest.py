"""Figures of forests under feature cost: the frontier, what examples pay, which features they use."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from secateur.report.figures import new_axes

__all__ = ["bill_figure", "frontier_figure", "use_figure"]

_WIDE = 90  # letters a line of the title holds
_MOST = 40  # features a figure names


def frontier_figure(
    path: Sequence[Mapping[str, Any]],
    chosen: Mapping[str, Any] | None = None,
    peers: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    *,
    before: Mapping[str, Any] | None = None,
    rows: str = "",
) -> Any:
    """Error against mean cost of every corner, the one chosen, the unpruned forest, and other ways to pay less.

    rows: which ones error and cost were measured on, for the title.
    """
    figure, axes = new_axes()
    for name, points in {"BudgetPruner": path, **(peers or {})}.items():
        ranked = sorted(points, key=lambda point: point["cost"])
        axes.plot(
            [corner["cost"] for corner in ranked],
            [corner["error"] for corner in ranked],
            marker="o",
            markersize=3,
            label=name,
        )
    if chosen is not None:
        axes.scatter([chosen["cost"]], [chosen["error"]], color="C3", zorder=3, label="chosen")
    if before is not None:
        axes.scatter([before["cost"]], [before["error"]], color="black", marker="x", zorder=3, label="unpruned")
    axes.legend()
    axes.set(xlabel="mean cost of an example", ylabel="error")
    _say_rows(axes, rows)
    return figure


def _say_rows(axes: Any, rows: str) -> None:
    if rows:
        axes.set_title(textwrap.fill(f"measured on {rows}", _WIDE), fontsize="small", parse_math=False)


def bill_figure(bills: Sequence[float], *, rows: str = "") -> Any:
    """How many examples pay how much; rows: which they are."""
    figure, axes = new_axes()
    axes.hist(bills, bins=min(50, max(5, len(set(bills)))))
    axes.axvline(sum(bills) / len(bills), linestyle="--", color="gray", label="mean")
    axes.set(xlabel="cost of an example", ylabel="examples")
    axes.legend()
    _say_rows(axes, rows)
    return figure


def use_figure(use: Mapping[str, float], *, rows: str = "") -> Any:
    """Share of the examples that need a feature, most used first; rows: which the examples are."""
    figure, axes = new_axes()
    ranked = sorted(use.items(), key=lambda pair: -pair[1])[:_MOST]
    axes.bar(range(len(ranked)), [share for _, share in ranked])
    axes.set_xticks(range(len(ranked)), [name for name, _ in ranked], rotation=90, fontsize="x-small", parse_math=False)
    axes.set(ylabel="share of examples that need it", ylim=(0, 1))
    _say_rows(axes, rows)
    return figure

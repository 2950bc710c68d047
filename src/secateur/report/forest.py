"""Figures of forests under feature cost: the frontier, what examples pay, which features they use."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from secateur.report.figures import new_axes
from secateur.report.style import COLOURS

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
        axes.scatter([chosen["cost"]], [chosen["error"]], color=COLOURS[1], s=60, zorder=3, label="chosen")
    if before is not None:
        axes.scatter([before["cost"]], [before["error"]], color="black", marker="x", zorder=3, label="unpruned")
    axes.legend(frameon=False)
    axes.set(xlabel="mean cost of a prediction", ylabel="error", xlim=(0, None))
    _title(axes, "Error against the cost of a prediction", rows)
    return figure


def _title(axes: Any, title: str, rows: str) -> None:
    """A title, and below it which rows were measured."""
    axes.set_title(
        "\n".join([title, *textwrap.wrap(f"measured on {rows}" if rows else "", _WIDE)]),
        loc="left",
        fontsize="medium",
        parse_math=False,
    )


def bill_figure(bills: Sequence[float], *, rows: str = "") -> Any:
    """How many examples pay how much, or in words where all pay the same; rows: which they are."""
    figure, axes = new_axes()
    mean = sum(bills) / len(bills)
    _title(axes, "What a prediction costs", rows)
    if len(set(bills)) == 1:
        axes.set_axis_off()
        axes.text(0.5, 0.5, f"all {len(bills):,} examples pay {mean:g}", ha="center", transform=axes.transAxes)
        return figure
    axes.hist(bills, bins=min(50, max(5, len(set(bills)))), color=COLOURS[0])
    axes.axvline(mean, linestyle="--", color="gray")
    axes.annotate(
        f"mean {mean:,.3g}",
        (mean, 1.0),
        (4, -12),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        color="gray",
    )
    axes.set(xlabel="cost of an example", ylabel="examples")
    return figure


def use_figure(use: Mapping[str, float], *, rows: str = "") -> Any:
    """Share of the examples that need a feature, most used first; features that none needs are counted in the title."""
    ranked = sorted(((name, share) for name, share in use.items() if share > 0), key=lambda pair: -pair[1])
    shown, never = ranked[:_MOST], len(use) - len(ranked)
    figure, axes = new_axes((8.0, 1.4 + 0.22 * max(len(shown), 4)))
    axes.barh(range(len(shown)), [share for _, share in shown], color=COLOURS[0])
    axes.set_yticks(range(len(shown)), [name for name, _ in shown], fontsize="small", parse_math=False)
    axes.invert_yaxis()
    axes.set(xlabel="share of examples that need the feature", xlim=(0, 1))
    left = f"; {len(ranked) - len(shown)} more are needed by some" if len(ranked) > len(shown) else ""
    _title(axes, f"Features that predictions need ({never} of {len(use)} are never needed{left})", rows)
    return figure

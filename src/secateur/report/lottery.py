"""Figures of lotteries: the width that random networks need as eps falls, and a network's neurons by layer."""

from collections.abc import Mapping, Sequence
from math import log10, nan
from typing import Any

from secateur.report.figures import new_axes

__all__ = ["growth_figure", "layers_figure", "widths_figure"]
_HEADROOM = 100.0  # a line that needs more than that beyond the others leaves the frame


def widths_figure(widths: Mapping[str, Any], reached: tuple[float, float] | None = None) -> Any:
    """Width factor against log10(1/eps), a line a construction; reached: eps and the factor one network needed."""
    figure, axes = new_axes()
    digits = [-log10(eps) for eps in widths["eps"]]
    lines = {name: [width or nan for width in factors] for name, factors in widths["factors"].items()}
    tops = sorted(max((width for width in line if width > 0), default=1.0) for line in lines.values())
    top = min(tops[-1] * 2, tops[-2 if len(tops) > 1 else -1] * _HEADROOM)
    for name, line in lines.items():
        least = min((width for width in line if width > 0), default=1.0)
        label = name if least < top else f"{name}: {least:.0e} and more"
        axes.plot(digits, line, marker="o", markersize=3, linewidth=3 if name == "batch" else 1.4, label=label)
    if reached is not None:
        axes.scatter([-log10(reached[0])], [reached[1]], color="black", zorder=3, label="reached")
    axes.set(xlabel="log10(1 / eps)", ylabel="random neurons for every input", yscale="symlog", ylim=(1, max(top, 10)))
    axes.set_title("Random neurons against the error allowed", loc="left")
    axes.legend(fontsize="x-small", ncols=2, frameon=False)
    return figure


def growth_figure(widths: Mapping[str, Any]) -> Any:
    """Our width factor against log10(1/eps) on straight scales, beside the line that fits it."""
    figure, axes = new_axes()
    digits = [-log10(eps) for eps in widths["eps"]]
    axes.scatter(digits, [nan if width is None else width for width in widths["factors"]["batch"]], label="promised")
    if (fit := widths["fit"]) is not None:
        line = [fit["slope"] * digit + fit["intercept"] for digit in digits]
        axes.plot(digits, line, color="gray", linestyle="--", label=f"straight line, R2 = {fit['r2']:.4f}")
    axes.set(xlabel="log10(1 / eps)", ylabel="random neurons for every input", ylim=(0, None))
    axes.set_title("Width grows with the digits of accuracy", loc="left")
    axes.legend(frameon=False)
    return figure


def layers_figure(layers: Sequence[Mapping[str, Any]]) -> Any:
    """Neurons of every intermediate layer: promised, reached and kept."""
    figure, axes = new_axes()
    for place, what in enumerate(("width", "reached", "kept")):
        places = [number + 0.27 * (place - 1) for number in range(len(layers))]
        axes.bar(places, [layer[what] for layer in layers], width=0.25, label="promised" if what == "width" else what)
    axes.set_yscale("symlog")  # a layer of zeros needs no neuron
    axes.set_ylim(bottom=0.3 * min(layer["kept"] for layer in layers))
    axes.set_xticks(range(len(layers)), [f"{layer['inputs']} to {layer['outputs']}" for layer in layers])
    axes.set(xlabel="target layer, inputs to outputs", ylabel="intermediate neurons")
    axes.set_title("Intermediate neurons of every layer", loc="left")
    axes.legend(frameon=False)
    return figure

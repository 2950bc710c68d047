"""The command that says what can be done to a model here, and how a dry run is told."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.table import Table

from secateur.terminal.console import AMOUNT, AsJson, Model, Trust, check_names, say, screen
from secateur.terminal.progress import progress

__all__ = ["advise", "tell_plan"]


def advise(
    model: Model,
    target: Annotated[
        str | None,
        typer.Option(help="What it may take: 0.5-bytes, 0.7-ms, 80M-params, ...", rich_help_panel=AMOUNT),
    ] = None,
    as_json: AsJson = False,
    trust_remote_code: Trust = False,
) -> None:
    """Say which methods make a language model smaller or faster on this machine, and at what quality."""
    check_names(model)
    from secateur.advise.advice import advise as ask
    from secateur.advise.advice import measured

    with progress("timing products on this machine"):
        told = ask(model, target, trusted=trust_remote_code)
    if as_json:
        typer.echo(json.dumps(told, indent=2))
        return
    _tell(told, measured())


def _tell(told: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
    about, machine = told["model"], told["machine"]
    say(
        f"{about['name']}: {about['class']}, {about['blocks']} blocks, {about['parameters']:,} parameters "
        f"({about['block_weights']:,} in blocks), {about['mb']:,.1f} MB"
    )
    engines = ", ".join(name for name, there in machine["engines"].items() if there)
    memory = "" if machine["memory_gb"] is None else f"{machine['memory_gb']:.0f} GB, "
    parts = f"{machine['cores']} cores, {machine['capability']}, {memory}{machine['gpu'] or 'no GPU'}"
    say(f"this machine: {parts}; {engines}")
    for kind in dict.fromkeys(one["kind"] for one in told["choices"]):
        screen.print(f"\n{kind}:", style="bold")
        head = f"  {'method':<34}{'goes':>5}{'size':>6}{'decoding':>10}{'perplexity':>16}{'run':>10}"
        screen.print(head, soft_wrap=True)
        for one in told["choices"]:
            if one["kind"] == kind:
                screen.print(_line(one), soft_wrap=True)
    rows, columns = told["layer"]
    products = ", ".join(f"{name} {times:.2f}" for name, times in told["probes"].items())
    say(
        f"\nperplexity: times the dense one, measured on {figures['model']} where that share of the block weights "
        "went; your model may lose more or less"
    )
    say("run: minutes measured there on two cores, scaled by size")
    say("decoding: smaller models by their parameters, zeros by the packed runtimes in the largest layer")
    say(f"probed here ({rows} x {columns}, one thread), times as fast as dense bfloat16: {products}")
    for line in told["not_here"]:
        say(f"not here: {line}")
    if told["command"]:
        say(f"type: {told['command']}")


def _line(one: Mapping[str, Any]) -> str:
    speed = "as before" if one["speed"] is None else f"{one['speed']:.2f}x"
    takes = "" if one["seconds"] is None else f"{one['seconds'] / 60:,.1f} min"
    quality = "not measured"
    if one["times_perplexity"] is not None:
        quality = f"x{one['times_perplexity']:.2f} at {one['measured_at']:.0%}"
    return f"  {one['what']:<34}{one['ratio']:>5.0%}{one['size']:>6.0%}{speed:>10}{quality:>16}{takes:>10}"


def tell_plan(told: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what a run would do."""
    if as_json:
        typer.echo(json.dumps(told, indent=2))
        return
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for layer in told["layers"]:
        kinds.setdefault(".".join(part for part in layer["name"].split(".")[-2:]), []).append(layer)
    table = Table("matrix", "layers", "ratio", "weights")
    for kind, layers in kinds.items():
        ratios = [layer["ratio"] for layer in layers]
        span = f"{min(ratios):.1%}" if max(ratios) - min(ratios) < 5e-4 else f"{min(ratios):.1%} to {max(ratios):.1%}"
        table.add_row(kind, str(len(layers)), span, f"{sum(layer['weights'] for layer in layers):,}")
    if kinds:
        screen.print(table)
    if not told["ratios_known"]:
        say("the allocator reads the model first: ratios above are uniform, and will differ between layers")
    shares = f"{told['removed_weights']:,} of {told['block_weights']:,} block weights"
    say(f"would remove {shares} in {told['blocks']} blocks")
    say(
        "parameters {:,} before, {:,} after; ".format(*told["parameters"])
        + "{:,.1f} MB before, {:,.1f} MB after".format(*(size / 1e6 for size in told["bytes"]))
    )
    say(
        f"calibration: {told['calibration_tokens']:,} tokens; estimates for this machine, as busy as it is now: "
        f"{told['seconds'] / 60:,.1f} min, at least {told['memory_mb']:,.0f} MB of memory"
    )
    say("nothing was written (dry run)")

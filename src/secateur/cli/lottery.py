"""The command that finds a target network inside a random one."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from secateur.core.files import check_output
from secateur.terminal.choices import Law, Sampling
from secateur.terminal.console import DATA, OUTPUT, AsJson, err, say, screen
from secateur.terminal.progress import progress

__all__ = ["lottery"]

_PROMISE, _RANDOM = "What is promised", "Random network"


_Target = Annotated[str | None, typer.Argument(help="A .safetensors of linear layers, or bundled:digits-mlp.")]
_Out = Annotated[Path | None, typer.Option(help="Folder to write; must not exist yet.", rich_help_panel=OUTPUT)]
_Delta = Annotated[
    float, typer.Option(help="Chance that the random network does not hold the target.", rich_help_panel=_PROMISE)
]
_Norm = Annotated[str, typer.Option(help="spectral (of errors and inputs, too) or row-sum.", rich_help_panel=_PROMISE)]
_Base = Annotated[
    float | None, typer.Option(help="Of the intervals; default is the golden ratio.", rich_help_panel=_RANDOM)
]
_NonNegative = Annotated[
    bool, typer.Option("--non-negative", help="Inputs are never below 0.", rich_help_panel=_PROMISE)
]
_Inputs = Annotated[
    Path | None, typer.Option(help="A .npy of rows whose predictions are compared.", rich_help_panel=DATA)
]
_Plan = Annotated[bool, typer.Option("--plan", help="Print sizes only; nothing is built.", rich_help_panel=OUTPUT)]
_Layers = Annotated[
    str | None, typer.Option(help="Sizes to plan for without a target: 784,300,10.", rich_help_panel=DATA)
]
_WeightMax = Annotated[float, typer.Option(help="With --layers: weights are this or less.", rich_help_panel=DATA)]
_NormMax = Annotated[float, typer.Option(help="With --layers: layers have this norm or less.", rich_help_panel=DATA)]


def lottery(
    target: _Target = None,
    out: _Out = None,
    eps: Annotated[float, typer.Option(help="Largest error of the output.", rich_help_panel=_PROMISE)] = 0.01,
    delta: _Delta = 0.05,
    law: Law = "hyperbolic",
    sampling: Sampling = "batch",
    radius: Annotated[float, typer.Option(help="Inputs have this norm or less.", rich_help_panel=_PROMISE)] = 1.0,
    norm: _Norm = "spectral",
    base: _Base = None,
    non_negative: _NonNegative = False,
    seed: Annotated[int, typer.Option(help="Fixes the random network.", rich_help_panel=_RANDOM)] = 0,
    tries: Annotated[int, typer.Option(help="Seeds to take until nothing is missing.", rich_help_panel=_RANDOM)] = 1,
    inputs: _Inputs = None,
    plan: _Plan = False,
    layers: _Layers = None,
    weight_max: _WeightMax = 1.0,
    norm_max: _NormMax = 1.0,
    as_json: AsJson = False,
) -> None:
    """Find a subnetwork of a random network that computes what TARGET does to within eps, without training."""
    from secateur.core.errors import InputError
    from secateur.lottery.golden import GOLDEN
    from secateur.lottery.plan import Lottery
    from secateur.report.figures import need_figures

    if out is not None:
        check_output(out)
        need_figures()
    if (target is None) == (layers is None):
        raise InputError("name one of TARGET and --layers")
    if (out is None) != plan or (layers is not None and not plan):
        raise InputError("name --out to build, or --plan for sizes only; --layers takes --plan")
    asked = Lottery(
        eps=eps,
        delta=delta,
        radius=radius,
        law=law,
        sampling=sampling,
        base=GOLDEN if base is None else base,
        norm=norm,
        signed=not non_negative,
    )
    _promise(asked, target, layers, (weight_max, norm_max), plan=plan, as_json=as_json)
    if target is not None and out is not None:
        _build(target, asked, out, {"seed": seed, "tries": tries, "inputs": inputs}, as_json=as_json)


def _promise(
    asked: Any, target: str | None, layers: str | None, limits: tuple[float, float], *, plan: bool, as_json: bool
) -> None:
    from secateur.lottery.plan import Lottery, Plan, outline, plan_sizes, plan_survey, survey
    from secateur.lottery.run import open_target, width_table

    network = None if target is None else survey(open_target(target), asked.norm)

    def make(asked: Lottery) -> Plan:
        if network is not None:
            return plan_survey(network, asked)
        return plan_sizes(_sizes(layers or ""), asked, weight=limits[0], matrix=limits[1])

    promised = outline(make(asked))
    if not as_json:
        _table(promised)
        if network is None:
            say(f"for weights of {limits[0]:g} or less and layers of norm {limits[1]:g}: --weight-max, --norm-max")
    elif plan:
        typer.echo(json.dumps(promised | {"widths": width_table(make, asked)}, indent=2))


def _build(target: str, asked: Any, out: Path, settings: dict[str, Any], *, as_json: bool) -> None:
    from secateur.lottery.run import Draw, draw_lottery

    with progress("inputs") as bar:
        result = draw_lottery(target, asked, out, Draw(**settings), illustrate=_draw, progress=bar)
    _tell(result, out, as_json=as_json)


def _sizes(layers: str) -> list[int]:
    from secateur.core.errors import InputError

    if not all(size.strip().isdigit() for size in layers.split(",")):
        raise InputError(f"layers {layers!r} should be whole numbers with commas between, such as 784,300,10")
    return [int(size) for size in layers.split(",")]


def _table(promised: dict[str, Any]) -> None:
    table = Table("layer", "weights", "accuracy", "intervals", "promised width", "ratio to target's", "a weight")
    for row in promised["layers"]:
        table.add_row(
            f"{row['inputs']} to {row['outputs']}",
            f"{row['weights']:,}",
            f"{row['accuracy']:.1e}",
            str(row.get("intervals", f"rounds of {row.get('round')}")),
            f"{row['width']:,}",
            f"{row['factor']:,.0f}",
            f"{row['per_weight']:,.1f}",
        )
    screen.print(table)


def _draw(result: dict[str, Any], folder: Path) -> None:
    from secateur.report.figures import save_figure
    from secateur.report.lottery import growth_figure, layers_figure, widths_figure

    reached = (result["lottery"]["eps"], result["reached_factor"])
    save_figure(widths_figure(result["widths"], reached), folder / "widths.png")
    save_figure(growth_figure(result["widths"]), folder / "growth.png")
    save_figure(layers_figure(result["layers"]), folder / "layers.png")


def _tell(result: dict[str, Any], folder: Path, *, as_json: bool) -> None:
    proof = result["certificate"]
    if as_json:
        typer.echo(json.dumps({"out": str(folder), **result}, indent=2))
    else:
        reached, kept = result["reached_factor"], result["kept_factor"]
        say(f"neurons for every input: {result['factor']:,.0f} promised, {reached:,.0f} reached, {kept:,.1f} kept")
        say(f"error: {proof['bound']:.2e} proved, {proof['found']:.2e} found, {proof['eps']:g} asked for")
        if "predictions" in result:
            same = result["predictions"]
            say(f"predictions: {same['same']:,} of {same['rows']:,} rows the same")
        say(f"in {folder}, {result['seconds']:.1f} s")
    if proof["missing"]:
        tries = result["tries"]
        err.print(f"{proof['missing']} intervals or sums were not in the random network ({tries} tries): add --tries")
    if not proof["holds"]:
        raise typer.Exit(1)

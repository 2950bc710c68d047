"""Commands on forests: fit, prune, report."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from secateur.terminal.choices import ForestGrowth, ForestSolver
from secateur.terminal.console import AMOUNT, DATA, MACHINE, OUTPUT, WHAT, AsJson, Commands, say, screen, show

__all__ = ["forest"]

forest = typer.Typer(cls=Commands, no_args_is_help=True, help="Fit, prune and report forests under feature costs.")

Target = Annotated[str, typer.Option(help="The column to predict.", rich_help_panel=DATA)]
Costs = Annotated[
    Path | None,
    typer.Option(help="A .csv of feature, cost and perhaps group; default is 1 each.", rich_help_panel=DATA),
]
Out = Annotated[Path, typer.Option(help="Folder to write; must not exist yet.", rich_help_panel=OUTPUT)]
Weight = Annotated[
    str | None, typer.Option(help="The column of what rows weigh; it is no feature.", rich_help_panel=DATA)
]
Seed = Annotated[int, typer.Option(help="Fixes the split and what is drawn.", rich_help_panel=WHAT)]


@forest.command()
def fit(
    data: Annotated[Path, typer.Argument(help="A .csv or .parquet table of numbers.")],
    target: Target,
    out: Out,
    costs: Costs = None,
    trees: Annotated[int, typer.Option(help="Trees to grow.", rich_help_panel=WHAT)] = 100,
    regression: Annotated[
        bool, typer.Option("--regression", help="Predict a number, not a class.", rich_help_panel=WHAT)
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(help="Processes to grow with; -1 is all cores.", rich_help_panel=MACHINE)
    ] = None,
    grow: ForestGrowth = "none",
    budget: Annotated[
        float | None, typer.Option(help="Largest mean cost; needs --grow.", rich_help_panel=AMOUNT)
    ] = None,
    weight: Weight = None,
    class_weight: Annotated[
        str | None, typer.Option(help="balanced: rare classes weigh as much as others.", rich_help_panel=WHAT)
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Grow a forest on 80% of DATA, measure error and cost on the rest, and save it without pickle."""
    from secateur.forest.run import Growth, fit_forest

    growth = Growth(
        trees=trees, regression=regression, jobs=jobs, seed=seed, grow=grow, budget=budget, class_weight=class_weight
    )
    result = fit_forest(data, target, out, growth, costs=costs, weight=weight)
    _tell(result, out, as_json=as_json)


@forest.command()
def prune(
    model: Annotated[Path, typer.Argument(help="A .skops file of a scikit-learn forest.")],
    data: Annotated[Path, typer.Option(help="Held-out rows to prune on, .csv or .parquet.", rich_help_panel=DATA)],
    target: Target,
    out: Out,
    costs: Costs = None,
    budget: Annotated[float | None, typer.Option(help="Largest mean cost.", rich_help_panel=AMOUNT)] = None,
    trade_off: Annotated[
        float | None, typer.Option(help="Error a unit of cost is worth.", rich_help_panel=AMOUNT)
    ] = None,
    path: Annotated[
        bool, typer.Option("--path", help="Save a model for every corner of the frontier.", rich_help_panel=AMOUNT)
    ] = False,
    points: Annotated[int, typer.Option(help="Corners of the frontier, about.", rich_help_panel=AMOUNT)] = 40,
    test: Annotated[
        Path | None, typer.Option(help="Rows to measure on; default: those of --data.", rich_help_panel=DATA)
    ] = None,
    weight: Weight = None,
    solver: ForestSolver = "auto",
    peers: Annotated[
        bool,
        typer.Option(
            "--peers",
            help="Draw ccp_alpha and fewer features beside the frontier; needs --test.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write model.onnx beside it.", rich_help_panel=OUTPUT)] = False,
    as_json: AsJson = False,
) -> None:
    """Prune a forest under feature costs; the result is a scikit-learn forest again.

    Errors and costs are measured on the rows of --test, or on those of --data that prune it. Under a budget you get the
    corner of least error there. Columns go by name.
    """
    from secateur.core.errors import InputError
    from secateur.forest.run import ForestOptions, Rows, prune_forest
    from secateur.report.card import write_card
    from secateur.report.figures import new_axes

    if (budget is not None) + (trade_off is not None) + path != 1:
        raise InputError("say what to prune to: one of --budget, --trade-off and --path")
    new_axes()  # without matplotlib, before any work
    options = ForestOptions(budget=budget, trade_off=trade_off, points=points, solver=solver, peers=peers, onnx=onnx)

    def finish(result: dict[str, Any], folder: Path) -> None:
        _draw(result, folder)
        write_card(folder, out.name)

    result = prune_forest(model, Rows(data, target, costs, test, weight), out, options, finish=finish)
    _tell(result, out, as_json=as_json)


@forest.command()
def report(folder: Annotated[Path, typer.Argument(help="What `forest prune` wrote.")], as_json: AsJson = False) -> None:
    """Show what was measured and draw its figures again."""
    from secateur.core.errors import InputError
    from secateur.core.files import read_document

    result = read_document(folder / "forest.json")
    try:
        _draw(result, folder)
        _tell(result, folder, as_json=as_json)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / 'forest.json'} is not what `forest prune` wrote: {error!r}") from error


def _draw(result: dict[str, Any], folder: Path) -> None:
    from secateur.report.figures import save_figure
    from secateur.report.forest import bill_figure, frontier_figure, use_figure

    rows = result.get("measured_on", "")
    if "path" in result:
        figure = frontier_figure(
            result["path"],
            result.get("chosen"),
            result.get("peers", {}),
            before=result.get("before"),
            rows=rows,
        )
        save_figure(figure, folder / "frontier.png")
    if "bills" in result:
        save_figure(bill_figure(result["bills"], rows=rows), folder / "bills.png")
        save_figure(use_figure(result["use"], rows=rows), folder / "use.png")


def _tell(result: dict[str, Any], folder: Path, *, as_json: bool) -> None:
    kept = {name: value for name, value in result.items() if name not in ("bills", "path", "peers", "use")}
    if as_json:
        typer.echo(json.dumps({"out": str(folder), **result}, indent=2))
        return
    if result.get("chosen") is None:
        _tell_path(result.get("path", []))
    show(kept, as_json=False)
    if result.get("names") == "none":
        say("the forest has no column names: columns were taken in the order they stand in")
    if "measured_on" in result:
        say(f"error and cost are those of {result['measured_on']}")
    if "corners" in result.get("chosen", {}):
        say(f"chosen: least error there of the {result['chosen']['corners']} corners within the budget")
    say(f"in {folder}")


def _tell_path(path: list[dict[str, Any]]) -> None:
    """Every corner of the frontier, the cheapest last."""
    table = Table("corner", "trade_off", "cost", "error", "nodes")
    for number, corner in enumerate(path):
        numbers = (corner["trade_off"], corner["cost"], corner["error"], corner["nodes"])
        table.add_row(str(number), *("" if value is None else f"{value:.6g}" for value in numbers))
    screen.print(table)

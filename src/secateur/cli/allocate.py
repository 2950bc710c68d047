"""Commands that say how much goes where: allocate and search."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from secateur.core.files import check_folder, check_output, storage_errors, write_document
from secateur.terminal.choices import AllocatorName
from secateur.terminal.console import (
    AMOUNT,
    CALIBRATION,
    MACHINE,
    OUTPUT,
    AsJson,
    Column,
    Device,
    Length,
    Model,
    Samples,
    Seed,
    Text,
    Trust,
    resumable,
    say,
    screen,
)
from secateur.terminal.progress import progress

Figures = Annotated[Path | None, typer.Option(help="Folder for figures of the result.", rich_help_panel=OUTPUT)]

__all__ = ["allocate", "search"]


def allocate(
    model: Model,
    allocator: AllocatorName,
    out: Annotated[
        Path,
        typer.Option(help="JSON file to write: ratios by layer, to be edited or pruned with.", rich_help_panel=OUTPUT),
    ],
    ratio: Annotated[float | None, typer.Option(help="Share of the weights to remove.", rich_help_panel=AMOUNT)] = None,
    budget: Annotated[
        str | None, typer.Option(help="Size to reach by units instead: 100M-params, 40-ms.", rich_help_panel=AMOUNT)
    ] = None,
    figures: Figures = None,
    calibration: Text = "bundled",
    text_column: Column = None,
    samples: Samples = 16,
    length: Length = None,
    seed: Seed = 0,
    device: Device = "auto",
    trust_remote_code: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Compute a pruning ratio for every layer; nothing is pruned."""
    _check_outputs(out, figures)
    from secateur.run.allocate import survey_model
    from secateur.run.recipe import parse_recipe
    from secateur.storage.source import resolve

    data = {"source": calibration, "samples": samples, "length": length, "seed": seed, "text_column": text_column}
    size = {"ratio": ratio} if budget is None else {"budget": budget, "pattern": "heads+channels"}
    recipe = parse_recipe(
        {"method": "magnitude", "allocator": allocator, "calibration": data, "device": device, **size}
    )
    with progress("reading blocks") as bar:
        survey = survey_model(resolve(model, trusted=trust_remote_code), recipe, progress=bar)
    allocation = survey.ratios()
    with storage_errors(out):
        allocation.save(out)
    if figures is not None:
        _draw_ratios(survey, allocation, figures)
    if as_json:
        typer.echo(json.dumps({"out": str(out), "ratios": dict(allocation.ratios)}, indent=2))
        return
    table = Table("layer", "ratio", "")
    for name, share in allocation.ratios.items():
        table.add_row(name, f"{share:.4f}", "#" * round(40 * share))
    screen.print(table)


_SearchOut = Annotated[
    Path,
    typer.Option(help="JSON file to write: ratios by block. The study is kept in OUT.search.", rich_help_panel=OUTPUT),
]
_SearchSpace = Annotated[
    str, typer.Option(help="expressions (DSA), or the ratios of blocks themselves.", rich_help_panel="Search")
]
_SearchWorkers = Annotated[
    int, typer.Option(min=1, help="Processes; each holds the model once.", rich_help_panel=MACHINE)
]
_SearchStorage = Annotated[
    str | None, typer.Option(help="Optuna storage: sqlite:///FILE, journal:FILE, ...", rich_help_panel=MACHINE)
]
_SearchSamples = Annotated[
    int, typer.Option(min=1, help="Samples the statistics are gathered from.", rich_help_panel=CALIBRATION)
]
_SearchEvalSamples = Annotated[
    int, typer.Option(min=1, help="Further samples that candidates are judged on.", rich_help_panel=CALIBRATION)
]


def search(
    model: Model,
    ratio: Annotated[float, typer.Option(help="Share of the weights to remove.", rich_help_panel=AMOUNT)],
    out: _SearchOut,
    space: _SearchSpace = "expressions",
    trials: Annotated[int, typer.Option(min=1, help="Candidates to judge.", rich_help_panel="Search")] = 64,
    population: Annotated[int, typer.Option(min=1, help="Candidates in a generation.", rich_help_panel="Search")] = 16,
    workers: _SearchWorkers = 1,
    storage: _SearchStorage = None,
    calibration: Text = "bundled",
    text_column: Column = None,
    samples: _SearchSamples = 16,
    eval_samples: _SearchEvalSamples = 2,
    length: Length = None,
    seed: Annotated[int, typer.Option(min=0, help="Fixes samples and candidates.", rich_help_panel=CALIBRATION)] = 0,
    figures: Figures = None,
    trust_remote_code: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Search for the best ratio of every block by trial. Rerun the same command to resume."""
    _check_outputs(out, figures)
    from secateur.calibrate.data import Calibration
    from secateur.search.study import Search, search_ratios
    from secateur.storage.source import resolve

    data = Calibration(source=calibration, samples=samples, length=length, seed=seed, text_column=text_column)
    sizes = {"trials": trials, "population": population, "workers": workers, "eval_samples": eval_samples, "seed": seed}
    plan = Search(ratio=ratio, space=space, storage=storage, calibration=data, **sizes)
    source = resolve(model, trusted=trust_remote_code)
    with resumable("finished trials are kept: rerun the command to go on"), progress("trials") as bar:
        best = search_ratios(source, plan, out.with_name(out.name + ".search"), progress=bar)
    result = {"candidate": best.candidate, "fitness": best.fitness, "uniform": best.uniform}
    with storage_errors(out):
        write_document(out.with_name(out.name + ".search") / "history.json", result | {"history": best.history})
        best.allocation.save(out)
    if figures is not None:
        _draw_history(best, figures)
    if as_json:
        typer.echo(json.dumps({"out": str(out), **result}, indent=2))
        return
    say(f"{best.words}\n{best.fitness:.4f} nats a token, uniform {best.uniform:.4f}; ratios in {out}")


def _check_outputs(out: Path, figures: Path | None) -> None:
    check_output(out)
    if figures is not None:
        from secateur.report.figures import need_figures

        check_folder(figures)
        need_figures()


def _draw_ratios(survey: Any, allocation: Any, folder: Path) -> None:
    from secateur.allocate.als import ALS
    from secateur.report.figures import correlation_figure, ratios_figure, save_figure

    method, problem = survey.recipe.build_allocator(), survey.problem
    save_figure(ratios_figure(problem.blocks, allocation.ratios, type(method).__name__), folder / "ratios.png")
    if isinstance(method, ALS):
        title = f"what repeats, by block {method.source}s"
        save_figure(correlation_figure(method.correlations(problem), title), folder / "correlation.png")


def _draw_history(best: Any, folder: Path) -> None:
    from secateur.report.figures import history_figure, ratios_figure, save_figure

    save_figure(history_figure(best.history, best.uniform, best.words), folder / "history.png")
    blocks = {name: {name: 1} for name in best.allocation.ratios}
    save_figure(ratios_figure(blocks, best.allocation.ratios, best.candidate), folder / "ratios.png")

"""Commands that say how much goes where: allocate and search."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from secateur.cli.console import AsJson, Column, Length, Model, Text, Trust, progress, resumable, say, screen
from secateur.core.files import check_folder, check_output, storage_errors, write_document

Figures = Annotated[Path | None, typer.Option(help="Folder for figures of the result.")]

__all__ = ["allocate", "search"]


def allocate(
    model: Model,
    allocator: Annotated[str, typer.Option(help="See `secateur methods`.")],
    out: Annotated[Path, typer.Option(help="JSON file to write: ratios by layer, to be edited or pruned with.")],
    ratio: Annotated[float | None, typer.Option(help="Share of the weights to remove.")] = None,
    budget: Annotated[str | None, typer.Option(help="Size to reach by units instead: 100M-params, 40-ms.")] = None,
    figures: Figures = None,
    calibration: Text = "bundled",
    text_column: Column = None,
    samples: Annotated[int, typer.Option(min=1, help="Calibration samples.")] = 16,
    length: Length = None,
    seed: Annotated[int, typer.Option(min=0, help="Fixes which samples are drawn.")] = 0,
    trust_remote_code: Trust = False,
) -> None:
    """Say how much goes where, without pruning."""
    _check_outputs(out, figures)
    from secateur.run.allocate import survey_model
    from secateur.run.recipe import parse_recipe
    from secateur.storage.source import resolve

    data = {"source": calibration, "samples": samples, "length": length, "seed": seed, "text_column": text_column}
    size = {"ratio": ratio} if budget is None else {"budget": budget, "pattern": "heads+channels"}
    recipe = parse_recipe({"method": "magnitude", "allocator": allocator, "calibration": data, **size})
    with progress("reading blocks") as bar:
        survey = survey_model(resolve(model, trusted=trust_remote_code), recipe, progress=bar)
    allocation = survey.ratios()
    with storage_errors(out):
        allocation.save(out)
    if figures is not None:
        _draw_ratios(survey, allocation, figures)
    table = Table("layer", "ratio", "")
    for name, share in allocation.ratios.items():
        table.add_row(name, f"{share:.4f}", "#" * round(40 * share))
    screen.print(table)


def search(
    model: Model,
    ratio: Annotated[float, typer.Option(help="Share of the weights to remove.")],
    out: Annotated[Path, typer.Option(help="JSON file to write: ratios by block. The study is kept in OUT.search.")],
    space: Annotated[str, typer.Option(help="expressions (DSA), or the ratios of blocks themselves.")] = "expressions",
    trials: Annotated[int, typer.Option(min=1, help="Candidates to judge.")] = 64,
    population: Annotated[int, typer.Option(min=1, help="Candidates in a generation.")] = 16,
    workers: Annotated[int, typer.Option(min=1, help="Processes; each holds the model once.")] = 1,
    storage: Annotated[str | None, typer.Option(help="Optuna storage: sqlite:///FILE, journal:FILE, ...")] = None,
    calibration: Text = "bundled",
    text_column: Column = None,
    samples: Annotated[int, typer.Option(min=1, help="Samples the statistics are gathered from.")] = 16,
    eval_samples: Annotated[int, typer.Option(min=1, help="Further samples that candidates are judged on.")] = 2,
    length: Length = None,
    seed: Annotated[int, typer.Option(min=0, help="Fixes samples and candidates.")] = 0,
    figures: Figures = None,
    trust_remote_code: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Find how much goes where by trial; killed or not, run it again to go on."""
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
        typer.echo(json.dumps(result, indent=2))
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

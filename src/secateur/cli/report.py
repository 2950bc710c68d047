"""Commands that show runs to people and publish them: report, compare, push."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.terminal.console import OUTPUT, AsJson, resumable, say, show
from secateur.terminal.progress import progress

__all__ = ["compare", "push", "report"]


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders that commands wrote.")],
    out: Annotated[Path, typer.Option(help="HTML file to write; must not exist yet.", rich_help_panel=OUTPUT)],
    as_json: AsJson = False,
) -> None:
    """Write a page of one or more runs: before and after, layers, heads, quality against size."""
    from secateur.report.page import write_report

    write_report(runs, out)
    if as_json:
        show({"out": str(out), "runs": len(runs)}, as_json=True)
        return
    say(f"{out}: {len(runs)} run{'s' if len(runs) > 1 else ''}; open it in a browser")


def push(
    folder: Annotated[Path, typer.Argument(help="A model folder.")],
    name: Annotated[str, typer.Argument(help="OWNER/NAME on the hub.")],
    public: Annotated[bool, typer.Option("--public", help="Anyone may read it.", rich_help_panel=OUTPUT)] = False,
    update: Annotated[
        bool, typer.Option("--update", help="Commit to a repository that exists.", rich_help_panel=OUTPUT)
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Upload a model folder with its card to the Hugging Face hub, or the hub that HF_ENDPOINT names."""
    from secateur.export.push import push as upload

    address = upload(folder, name, private=not public, update=update)
    if as_json:
        show({"name": name, "commit": address}, as_json=True)
        return
    say(f"{name}: {address}")


def compare(
    grid: Annotated[Path, typer.Argument(help="A YAML file: model, methods, ratios, allocators, and recipe keys.")],
    out: Annotated[Path, typer.Option(help="Folder to write, or to continue.", rich_help_panel=OUTPUT)],
    as_json: AsJson = False,
) -> None:
    """Run methods x ratios x allocators and write one page. Rerun the same command to resume."""
    from secateur.advise.compare import compare as run_compare
    from secateur.advise.compare import read_grid

    cells = read_grid(grid)
    with resumable("finished runs are kept: rerun the command to go on"), progress("runs") as bar:
        told = run_compare(cells, out, progress=bar)
    if as_json:
        show(told, as_json=True)
        return
    for name, why in told["refused"].items():
        say(f"refused: {name}: {why}")
    say(f"{told['report']}: {len(told['done'])} runs; open it in a browser")

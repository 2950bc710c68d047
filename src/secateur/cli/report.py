"""Commands that show runs to people and publish them: report, compare, push."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.terminal.console import OUTPUT, AsJson, say, show

__all__ = ["push", "report"]


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

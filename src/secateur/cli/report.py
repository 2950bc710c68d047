"""Commands that show runs to people and publish them: report, compare, push."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.terminal.console import OUTPUT, AsJson, say, show

__all__ = ["report"]


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

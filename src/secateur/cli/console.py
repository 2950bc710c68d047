"""What commands share: two consoles, a progress bar, a table of results."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

__all__ = ["AsJson", "Model", "err", "progress", "say", "screen", "show"]

err = Console(stderr=True)
screen = Console()
Model = Annotated[str, typer.Argument(help="A folder, a hub name, a .gguf file, or bundled:smollm2.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def say(text: object) -> None:
    """Print a sentence as it is, without wrapping or colours."""
    screen.print(str(text), soft_wrap=True, highlight=False)


def show(results: dict[str, Any], *, as_json: bool) -> None:
    """Print numbers as JSON or as a table."""
    if as_json:
        typer.echo(json.dumps(results, indent=2))
        return
    table = Table("measure", "value")
    for name, value in _flat(results):
        table.add_row(name, f"{value:,}" if isinstance(value, int) else f"{value:.4f}")
    screen.print(table)


@contextmanager
def progress(label: str) -> Iterator[Any]:
    """A bar on stderr; the context is called with how many are done of how many."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _flat(results: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in results.items():
        if isinstance(value, dict):
            yield from _flat(cast(dict[str, Any], value), f"{prefix}{key}.")
        elif isinstance(value, int | float):
            yield prefix + key, value

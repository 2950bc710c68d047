"""What commands share: consoles that print text as it is, progress, a table of results, how an interruption ends."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from secateur.core.errors import InputError
from secateur.core.files import check_output
from secateur.terminal.guide import GUIDE

__all__ = [
    "AMOUNT",
    "CALIBRATION",
    "DATA",
    "MACHINE",
    "OUTPUT",
    "RESUME",
    "WHAT",
    "AsJson",
    "Column",
    "Commands",
    "DryRun",
    "Device",
    "Interrupted",
    "Length",
    "Model",
    "Text",
    "Trust",
    "Resume",
    "Samples",
    "Seed",
    "check_names",
    "column_option",
    "err",
    "hush",
    "hushed",
    "interruptible",
    "plain",
    "resumable",
    "say",
    "screen",
    "show",
    "text_option",
    "whole_numbers",
]

# Nothing that is printed is markup: paths, names and exceptions hold brackets.
err = Console(stderr=True, markup=False, emoji=False, highlight=False)
screen = Console(markup=False, emoji=False, highlight=False)
# Panels of options in the help.
WHAT, AMOUNT, CALIBRATION, DATA = "What to prune", "How much", "Calibration", "Data"
OUTPUT, MACHINE = "Output", "Machine"
_PANELS = {"None": -1, WHAT: 0, AMOUNT: 1, CALIBRATION: 2, DATA: 2, OUTPUT: 8, MACHINE: 9}  # others stand between
RESUME = "finished work is kept: rerun the command with --resume to go on"
Model = Annotated[str, typer.Argument(help="A folder, a hub name, a .gguf file, or bundled:smollm2.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=OUTPUT)]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run Python code that the model's folder or hub page brings.",
        rich_help_panel=MACHINE,
    ),
]


def text_option(panel: str) -> Any:
    """The option of a text, in this panel of the help."""
    known = "A .txt, .jsonl, .json, .csv or .parquet file (also .gz), datasets:NAME, or bundled."
    return typer.Option(help=known, rich_help_panel=panel)


def column_option(panel: str) -> Any:
    """The option of the field that holds a row's text, in this panel of the help."""
    field = "Field of rows that holds the text; default is text, or messages by chat template."
    return typer.Option(help=field, rich_help_panel=panel)


DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the plan: what is removed, sizes, estimates.", rich_help_panel=OUTPUT)
]
Text = Annotated[str, text_option(CALIBRATION)]
Column = Annotated[str | None, column_option(CALIBRATION)]
Length = Annotated[
    int | None,
    typer.Option(
        min=2,
        help="Tokens in a sample; default is 1024, or the model's positions if fewer.",
        rich_help_panel=CALIBRATION,
    ),
]
Samples = Annotated[int, typer.Option(min=1, help="Calibration samples.", rich_help_panel=CALIBRATION)]
Seed = Annotated[int, typer.Option(min=0, help="Fixes which samples are drawn.", rich_help_panel=CALIBRATION)]
Device = Annotated[
    str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps. auto takes a GPU if there is one.", rich_help_panel=MACHINE)
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.", rich_help_panel=OUTPUT)]
_HALF = 600  # letters of the ends of a long message
_quiet = False


class Commands(TyperGroup):
    """Commands none of whose options is empty: what names nothing would be taken for the default, or for this folder.

    `--out` has a sentence of its own. Panels of options stand in the order of the work in every command's help.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Sort every command's options by their panels; within one they keep their order."""
        super().__init__(*args, **kwargs)
        for command in self.commands.values():
            command.params.sort(key=lambda option: _PANELS.get(str(getattr(option, "rich_help_panel", None)), 3))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Print the guide where there are no arguments. Raises InputError on an option with an empty value."""
        if not args and ctx.parent is None:
            typer.echo(GUIDE, nl=False)
            ctx.exit()
        options = args[: args.index("--")] if "--" in args else args
        words = [part for word in options for part in (word.split("=", 1) if word.startswith("--") else [word])]
        for word, value in pairwise(words):
            if word.startswith("--") and word != "--out" and not value.strip():
                raise InputError(f"{word} is empty: give it a value, or leave {word} out")
        return super().parse_args(ctx, args)


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM: no Exception, so that nothing on the way takes it for a fault."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into `Interrupted` while a command runs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def resumable(how: str) -> Iterator[None]:
    """Say how to go on when this is interrupted, and end with exit code 130."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        err.print(f"interrupted: {how}", soft_wrap=True)
        raise typer.Exit(130) from None


def plain(why: str) -> str:
    """A message as one line that is fit to print: control characters as escapes, the middle of a long one left out."""
    text = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in " ".join(why.split()))
    return text if len(text) <= 2 * _HALF else f"{text[:_HALF]} ... {text[-_HALF:]}"


def hush(*, quiet: bool) -> None:
    """Leave out sentences and progress, or print them again; tables, JSON and errors are always printed."""
    global _quiet
    _quiet = quiet


def hushed() -> bool:
    """Whether sentences and progress are left out."""
    return _quiet


def say(text: object) -> None:
    """Print a sentence as it is, without wrapping or colours."""
    if not _quiet:
        screen.print(str(text), soft_wrap=True)


def check_names(model: str, out: Path | None = None) -> None:
    """Refuse names that lead nowhere before torch is imported."""
    if out is not None and not os.path.lexists(f"{out}.partial"):  # which the run clears up, and then looks
        check_output(out, may_be_empty=True)
    if "\0" in model or not model.strip():
        raise InputError(f"model {model!r} is no name: give a folder, a hub name, a .gguf file or bundled:smollm2")
    if model.startswith(("/", "./", "../", "~")) and not os.path.lexists(model):
        raise InputError(f"model {model!r}: there is no such file or folder")


def show(results: dict[str, Any], *, as_json: bool) -> None:
    """Print numbers as JSON or as a table."""
    if as_json:
        typer.echo(json.dumps(results, indent=2))
        return
    table = Table("measure", "value")
    for name, value in _flat(results):
        table.add_row(name, _number(value))
    screen.print(table)


def whole_numbers(option: str, text: str, example: str) -> list[int]:
    """Whole numbers with commas between. Raises InputError on anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise InputError(f"{option} {text!r} should be whole numbers with commas between, such as {example}")
    return [int(part) for part in parts]


def _number(value: int | float) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.3g}"


def _flat(results: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in results.items():
        if isinstance(value, dict):
            yield from _flat(cast(dict[str, Any], value), f"{prefix}{key}.")
        elif isinstance(value, int | float):
            yield prefix + key, value

"""The command line: global options, commands in groups, and how each ends. Results go to stdout, the rest to stderr."""

import io
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.text import Text as TextLine
from typer.main import get_command

from secateur.cli.advise import advise
from secateur.cli.allocate import allocate, search
from secateur.cli.finished import bench, evaluate, export, recover, verify
from secateur.cli.forest import forest
from secateur.cli.heads import heads
from secateur.cli.lottery import lottery
from secateur.cli.mask import mask
from secateur.cli.methods import methods
from secateur.cli.prune import prune, prune_by
from secateur.cli.report import compare, push, report
from secateur.cli.train import train
from secateur.core.errors import RecipeError, SecateurError
from secateur.core.files import read_settings
from secateur.terminal.console import (
    OUTPUT,
    AsJson,
    Commands,
    Interrupted,
    Resume,
    Trust,
    check_names,
    err,
    hush,
    interruptible,
    plain,
)
from secateur.terminal.log import draw_to, log_to, set_up_log, tell_all
from secateur.terminal.recipes import check_steps, is_made, is_plain, plain_recipe, run_command

__all__ = ["app", "main", "run"]

_UsageError: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
_HELP = str(__import__("secateur").__doc__).splitlines()[0]


def run(
    recipe: Annotated[
        Path, typer.Argument(help="A YAML file; its keys are the recipe's fields. A list of recipes runs in order.")
    ],
    out: Annotated[
        str | None, typer.Option(help="Folder to write, instead of the recipe's.", rich_help_panel=OUTPUT)
    ] = None,
    resume: Resume = False,
    as_json: AsJson = False,
    trust_remote_code: Trust = False,
) -> None:
    """Run a recipe, or several in a row: pruning runs, or any commands that they name."""
    data = read_settings(recipe)
    steps = data if isinstance(data, list) else [data]
    check_steps(recipe, steps)
    if out is not None and isinstance(steps[-1], dict):
        steps = [*steps[:-1], steps[-1] | {"out": out}]
    for number, step in enumerate(steps, 1):
        if len(steps) > 1:
            made = resume and is_made(recipe, step)
            there = f": {step['out']} is there: go on from it" if made else ""
            err.print(plain(f"step {number} of {len(steps)}{there}"), soft_wrap=True)
            if made:
                continue
        _run_step(recipe, step, resume=resume, as_json=as_json, trust=trust_remote_code)


def _run_step(recipe: Path, data: Any, *, resume: bool, as_json: bool, trust: bool) -> None:
    flags = dict[str, bool]()
    if not is_plain(data):
        given = {"resume": resume, "json": as_json, "trust_remote_code": trust}
        told = {key: True for key, value in given.items() if value}  # they stand above the recipe's
        if code := run_command(get_command(app), data | told):
            raise typer.Exit(code)
        return
    from secateur.run.recipe import load_recipe  # torch takes seconds to import: not for a mistyped name

    if isinstance(data, dict) and "command" in data:
        data, flags = plain_recipe(data)
    settings = load_recipe(recipe, data)
    if settings.model is None or settings.out is None:
        raise RecipeError(f"recipe {recipe} needs a model and an out folder (out may also be given by --out)")
    check_names(settings.model, Path(settings.out))
    prune_by(
        settings,
        settings.model,
        settings.out,
        resume=resume or flags.get("resume", False),
        trust=trust or flags.get("trust_remote_code", False),
        as_json=as_json or flags.get("json", False),
    )


_GROUPS: Mapping[str, Sequence[Callable[..., None]]] = {
    "Prune language models": (prune, advise, allocate, search, compare, run, methods),
    "Learn what to prune": (train,),
    "Use a pruned model": (evaluate, verify, bench, recover, export, report, push),
    "Other models": (lottery,),
}
app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _panel, _commands in _GROUPS.items():
    for _command in _commands:
        app.command(rich_help_panel=_panel)(_command)
app.add_typer(mask, name="mask", rich_help_panel="Learn what to prune")
app.add_typer(heads, name="heads", rich_help_panel="Other models")
app.add_typer(forest, name="forest", rich_help_panel="Other models")


def _tell_version(asked: bool) -> bool:
    if asked:
        from importlib.metadata import version

        typer.echo(f"secateur {version('secateur')}")
        raise typer.Exit
    return asked


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every layer and step to stderr.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print tables, --json and errors only: no progress, no notes.")
    ] = False,
    log: Annotated[
        Path | None, typer.Option("--log-to", help="Append the log to this file, a JSON object a line.")
    ] = None,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Write losses, speed and memory to this folder, as TensorBoard's curves.")
    ] = None,
) -> None:
    """Take the options that stand before the command; a command that a recipe runs keeps them."""
    if verbose:
        tell_all()
    if quiet:
        hush(quiet=True)
        logging.getLogger("secateur").setLevel("ERROR")
    if log is not None:
        log_to(log)
    if tensorboard is not None:
        draw_to(tensorboard)


def main() -> None:
    """Run the command line; what the user can mend ends as one sentence and exit code 2."""
    set_up_log()
    hush(quiet=False)
    _quiet_ranks()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may hold what the terminal cannot show
    try:
        with interruptible():
            sys.exit(app(standalone_mode=False) or 0)
    except _UsageError as error:
        _misused(error)
    except Interrupted:
        err.print("interrupted: nothing was kept, rerun the command to start again")
        sys.exit(130)
    except SecateurError as error:
        _end(str(error))
    except Exception as error:
        if os.environ.get("SECATEUR_TRACEBACK"):
            raise
        _end(
            f"{type(error).__name__}: {error} (secateur did not expect this: please report the command; "
            "SECATEUR_TRACEBACK=1 shows where it happened)"
        )


def _quiet_ranks() -> None:
    """Of processes that torchrun started, only the first prints results; each says why it ends."""
    if os.environ.get("TORCHELASTIC_RUN_ID") and os.environ.get("RANK", "0") != "0":
        hush(quiet=True)
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")


def _misused(error: Any) -> NoReturn:
    """A command that cannot be parsed, as one sentence; without arguments, its help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        sys.exit(2)
    command = error.ctx.command_path if getattr(error, "ctx", None) else "secateur"
    _end(f"{error.format_message()} (see `{command} --help`)")


def _end(why: str) -> NoReturn:
    which = "" if os.environ.get("RANK", "0") == "0" else f"process {os.environ['RANK']}: "
    line = TextLine("error: ", style="bold red") + TextLine(which + plain(why))
    err.print(line, soft_wrap=True)
    sys.exit(2)

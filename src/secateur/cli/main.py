"""Commands: prune, recover, evaluate, run, methods and more. Progress and errors go to stderr, results to stdout."""

import io
import json
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.logging import RichHandler
from rich.table import Table
from rich.text import Text as TextLine
from typer.main import get_command

from secateur.cli.allocate import allocate, search
from secateur.cli.console import (
    AsJson,
    Column,
    Interrupted,
    Length,
    Model,
    Text,
    Trust,
    err,
    interruptible,
    plain,
    progress,
    resumable,
    say,
    screen,
    show,
    whole_numbers,
)
from secateur.cli.forest import forest
from secateur.cli.heads import heads
from secateur.cli.lottery import lottery
from secateur.core.errors import DisagreementError, InputError, SecateurError
from secateur.core.files import check_output

__all__ = ["app", "main"]

_UsageError: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
_HELP = str(__import__("secateur").__doc__).splitlines()[0]
_RESUME = "finished work is kept: rerun the command with --resume to go on"

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=_HELP)
app.command()(allocate)
app.command()(search)
app.command()(lottery)
app.add_typer(heads, name="heads")
app.add_typer(forest, name="forest")


@app.command()
def prune(
    model: Model,
    out: Annotated[str, typer.Option(help="Folder to write; must not exist yet.")],
    method: Annotated[str, typer.Option(help="See `secateur methods`.")] = "sparsegpt",
    ratio: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of the weights to remove; n:m patterns fix it.")
    ] = None,
    pattern: Annotated[str | None, typer.Option(help="unstructured, row, 2:4, heads+channels, channels, ...")] = None,
    budget: Annotated[str | None, typer.Option(help="Size to reach instead of a ratio: 100M-params, ...")] = None,
    allocator: Annotated[str, typer.Option(help="How much where: uniform, owl, als, ...")] = "uniform",
    ratios: Annotated[
        Path | None, typer.Option(help="A file `secateur allocate` wrote; stands above --allocator.")
    ] = None,
    round_to: Annotated[int, typer.Option(min=1, help="ffn channels stay in multiples of this.")] = 8,
    calibration: Text = "bundled",
    text_column: Column = None,
    samples: Annotated[int, typer.Option(min=1, help="Calibration samples.")] = 16,
    length: Length = None,
    seed: Annotated[int, typer.Option(min=0, help="Fixes which samples are drawn.")] = 0,
    dtype: Annotated[str, typer.Option(help="Forward passes in auto, float32 or bfloat16.")] = "auto",
    save_dtype: Annotated[
        str, typer.Option(help="Write weights as float32, bfloat16 or float16; auto keeps the model's own.")
    ] = "auto",
    trust_remote_code: Trust = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    as_json: AsJson = False,
) -> None:
    """Prune MODEL and save it as a transformers folder; unequal blocks load after `import secateur`."""
    _check_names(model, Path(out))
    from secateur.run.recipe import parse_recipe  # torch takes seconds to import: not for --help

    settings = {
        "method": method,
        "ratio": ratio,
        "pattern": pattern,
        "budget": budget,
        "allocator": allocator,
        "ratios": _ratios(ratios),
        "round_to": round_to,
        "calibration": {
            "source": calibration,
            "samples": samples,
            "length": length,
            "seed": seed,
            "text_column": text_column,
        },
        "dtype": dtype,
        "save_dtype": save_dtype,
    }
    _prune(model, parse_recipe(settings), out, resume=resume, trust=trust_remote_code, as_json=as_json)


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="A YAML file; its keys are the recipe's fields.")],
    out: Annotated[str | None, typer.Option(help="Folder to write, instead of the recipe's.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    trust_remote_code: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Do as a recipe says: prune, or any command that it names."""
    from secateur.core.errors import RecipeError
    from secateur.run.recipe import load_recipe, read_settings

    data = read_settings(recipe)
    if isinstance(data, dict) and "command" in data:
        from secateur.cli.recipes import as_arguments

        given = {"out": out, "resume": resume or None, "json": as_json or None}  # they stand above the recipe's
        given["trust_remote_code"] = trust_remote_code or None
        words = as_arguments(get_command(app), data | {key: value for key, value in given.items() if value is not None})
        raise typer.Exit(app(words, standalone_mode=False) or 0)
    settings = load_recipe(recipe)
    target = out or settings.out
    if settings.model is None or target is None:
        raise RecipeError(f"recipe {recipe} needs a model and an out folder (out may also be given by --out)")
    _check_names(settings.model, Path(target))
    _prune(settings.model, settings, target, resume=resume, trust=trust_remote_code, as_json=as_json)


@app.command()
def recover(
    model: Annotated[str, typer.Argument(help="A pruned model folder.")],
    text: Text,
    out: Annotated[str, typer.Option(help="Folder to write; must not exist yet.")],
    teacher: Annotated[str | None, typer.Option(help="The dense model, to learn from its outputs too.")] = None,
    text_column: Column = None,
    rank: Annotated[int, typer.Option(min=0, help="Rank of low-rank changes (LoRA); 0 trains all weights.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 200,
    batch: Annotated[int, typer.Option(min=1, help="Windows in a step.")] = 4,
    length: Annotated[
        int | None, typer.Option(min=2, help="Tokens in a window; default is 512, or the model's positions if fewer.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Fixes which windows are drawn.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    trust_remote_code: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Train a pruned model on text; zeros and sizes stay as they are."""
    _check_names(model, Path(out))
    from secateur.run.recover import recover as run_recover
    from secateur.train.recover import Training

    sizes: Any = {"steps": steps, "batch": batch, "length": length, "rank": rank}
    training = Training(**sizes, rate=rate, seed=seed, text_column=text_column)
    with resumable(_RESUME), progress("training steps") as bar:
        result = run_recover(
            model,
            text,
            out,
            training,
            teacher=teacher,
            resume=resume,
            trust_remote_code=trust_remote_code,
            progress=bar,
        )
    show(result, as_json=as_json)
    if not as_json:
        say(f"{out}: trained; next: secateur evaluate {shlex.quote(out)} --perplexity FILE")


@app.command()
def evaluate(
    model: Model,
    perplexity: Annotated[str | None, typer.Option(help="Text to measure it on, or bundled.")] = None,
    text_column: Column = None,
    tasks: Annotated[list[Path] | None, typer.Option(help="A .jsonl file of questions; may be repeated.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="First rows of each task only.")] = None,
    length: Length = None,
    stride: Annotated[int | None, typer.Option(min=1, help="Tokens between windows; default is no overlap.")] = None,
    windows: Annotated[int | None, typer.Option(min=1, help="First perplexity windows only.")] = None,
    dtype: Annotated[str, typer.Option(help="Compute in auto (float32 on a CPU), float32 or bfloat16.")] = "auto",
    trust_remote_code: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Measure perplexity and zero-shot accuracy."""
    _check_names(model)
    from secateur.evaluate.measure import measure
    from secateur.storage.source import resolve

    with progress("evaluating") as bar:
        results = measure(
            resolve(model, trusted=trust_remote_code),
            perplexity,
            tasks or [],
            limit=limit,
            dtype=dtype,
            window=(length, stride, windows),
            text_column=text_column,
            progress=bar,
        )
    show(results, as_json=as_json)


@app.command()
def verify(
    dense: Annotated[str, typer.Argument(help="The model that was pruned.")],
    pruned: Annotated[str, typer.Argument(help="The folder `prune` wrote.")],
    trust_remote_code: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Check that a shrunk model computes what the dense one does with zeros in its place; exit code 1 if not."""
    _check_names(dense)
    _check_names(pruned)
    from secateur.evaluate.agreement import verify_folders
    from secateur.storage.source import resolve

    try:
        agreement = verify_folders(*(resolve(name, trusted=trust_remote_code) for name in (dense, pruned)))
    except DisagreementError as error:
        if as_json:
            typer.echo(json.dumps({"same": False, "why": str(error)}))
        err.print(f"not the same: {error}", soft_wrap=True)
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps({"same": True} | agreement._asdict()))
        return
    worst = max(agreement.blocks)
    say(f"same: blocks differ by at most {worst:.1e} of their largest value, logits by {agreement.logits:.1e}")


@app.command()
def export(
    folder: Annotated[str, typer.Argument(help="A model folder, shrunk or not.")],
    to: Annotated[str, typer.Option(help="gguf, onnx, decilm (vLLM) or standalone.")],
    out: Annotated[Path, typer.Option(help="File (gguf) or folder (others) to write; must not exist yet.")],
    quantize: Annotated[str, typer.Option(help="Of gguf: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1 or q4_0.")] = "f32",
    trust_remote_code: Trust = False,
) -> None:
    """Write a model in another format."""
    _check_names(folder, out)
    from secateur.export.convert import convert
    from secateur.storage.source import resolve

    say(convert(resolve(folder, trusted=trust_remote_code), to, out, quantize=quantize))


@app.command()
def bench(
    dense: Annotated[str, typer.Argument(help="The model that was pruned.")],
    pruned: Annotated[str, typer.Argument(help="The smaller model.")],
    engine: Annotated[str, typer.Option(help="torch, torch-bfloat16, onnxruntime, llama.cpp.")] = "torch",
    batch: Annotated[str, typer.Option(help="Batch sizes, commas between.")] = "1",
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")] = 512,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens decoded after it.")] = 128,
    rounds: Annotated[int, typer.Option(min=1, help="Turns each model takes; medians are reported.")] = 3,
    trust_remote_code: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Time both models side by side."""
    _check_names(dense)
    _check_names(pruned)
    sizes = whole_numbers("batch", batch, "1,8")
    from secateur.evaluate.bench import bench as run_bench
    from secateur.storage.source import resolve

    pair = [resolve(name, trusted=trust_remote_code) for name in (dense, pruned)]
    with progress("timings") as bar:
        results = run_bench(
            *pair,
            engines=engine.split(","),
            batches=sizes,
            prompt=prompt,
            new_tokens=new_tokens,
            rounds=rounds,
            progress=bar,
        )
    show(results, as_json=as_json)


@app.command()
def methods(as_json: AsJson = False) -> None:
    """List methods, scores, solvers and patterns with one line each."""
    from secateur.run.methods import ALLOCATORS, METHODS, PATTERNS, SCORES, SOLVERS

    rows = {
        **{table.kind: table.lines() for table in (METHODS, SCORES, SOLVERS, ALLOCATORS)},
        "pattern": dict(PATTERNS),
    }
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("kind", "name", "what it does")
    for kind, entries in rows.items():
        for name, line in entries.items():
            table.add_row(kind, name, line)
    screen.print(table)


def main() -> None:
    """Run the command line; what the user can mend ends as one sentence and exit code 2."""
    logging.basicConfig(level="WARNING", handlers=[RichHandler(console=err, show_path=False)], format="%(message)s")
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


def _misused(error: Any) -> NoReturn:
    """A command that cannot be parsed, as one sentence; without arguments, its help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        sys.exit(2)
    command = error.ctx.command_path if getattr(error, "ctx", None) else "secateur"
    _end(f"{error.format_message()} (see `{command} --help`)")


def _end(why: str) -> NoReturn:
    line = TextLine("error: ", style="bold red") + TextLine(plain(why))
    err.print(line, soft_wrap=True)
    sys.exit(2)


def _check_names(model: str, out: Path | None = None) -> None:
    """Refuse names that lead nowhere before torch is imported."""
    if out is not None and not os.path.lexists(f"{out}.partial"):  # which the run clears up, and then looks
        check_output(out, may_be_empty=True)
    if "\0" in model or not model.strip():
        raise InputError(f"model {model!r} is no name: give a folder, a hub name, a .gguf file or bundled:smollm2")
    if model.startswith(("/", "./", "../", "~")) and not os.path.lexists(model):
        raise InputError(f"model {model!r}: there is no such file or folder")


def _prune(model: str, recipe: Any, out: str, *, resume: bool, trust: bool, as_json: bool) -> None:
    from secateur.run.prune import prune as run_prune

    with resumable(_RESUME), progress("pruning blocks") as bar:
        result = run_prune(model, recipe, out, resume=resume, trust_remote_code=trust, progress=bar)
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2))
        return
    resumed = f", {result.resumed_blocks} blocks resumed" if result.resumed_blocks else ""
    say(
        f"{result.out}: {result.sparsity:.2%} of {result.block_weights:,} block weights removed "
        f"in {result.seconds:.1f} s, peak memory {result.peak_memory_mb:,.0f} MB{resumed}"
    )
    say(
        "parameters {:,} before, {:,} after; ".format(*result.parameters)
        + "{:,.1f} MB before, {:,.1f} MB after".format(*(size / 1e6 for size in result.bytes))
    )
    if held := result.held_out:
        say(
            f"perplexity on {held['windows']} held-out windows of {held['length']:,} calibration tokens: "
            f"{held['before']:.2f} before, {held['after']:.2f} after"
        )
    smaller = (result.out / "cut.json").exists() or (result.out / "blocks.json").exists()
    pair = shlex.join(["--", model, out] if out.startswith("-") else [model, out])
    say(f"next: secateur verify {pair}" if smaller else f"next: secateur evaluate {shlex.quote(out)} --perplexity FILE")


def _ratios(path: Path | None) -> dict[str, float]:
    from secateur.core.allocation import Allocation

    return {} if path is None else dict(Allocation.load(path).ratios)

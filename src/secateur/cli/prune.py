"""Commands that prune language models: prune and methods."""

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from secateur.cli.choices import AllocatorName, DType, Method, Pattern, SaveDType
from secateur.cli.console import (
    AMOUNT,
    OUTPUT,
    RESUME,
    WHAT,
    AsJson,
    Column,
    Length,
    Model,
    Resume,
    Samples,
    Seed,
    Text,
    Trust,
    check_names,
    progress,
    resumable,
    say,
    screen,
)

__all__ = ["methods", "prune", "prune_by"]


_RoundTo = Annotated[
    int, typer.Option(min=1, help="Keep FFN channels in multiples of this number.", rich_help_panel=WHAT)
]
_Ratio = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Share of the weights to remove; n:m patterns fix it.", rich_help_panel=AMOUNT),
]
_Budget = Annotated[
    str | None, typer.Option(help="Size to reach instead of a ratio: 100M-params, ...", rich_help_panel=AMOUNT)
]
_Ratios = Annotated[
    Path | None,
    typer.Option(help="A file that `secateur allocate` wrote; overrides --allocator.", rich_help_panel=AMOUNT),
]


def prune(
    model: Model,
    *,
    method: Method = "sparsegpt",
    pattern: Pattern = None,
    round_to: _RoundTo = 8,
    ratio: _Ratio = None,
    budget: _Budget = None,
    allocator: AllocatorName = "uniform",
    ratios: _Ratios = None,
    calibration: Text = "bundled",
    text_column: Column = None,
    samples: Samples = 16,
    length: Length = None,
    seed: Seed = 0,
    out: Annotated[str, typer.Option(help="Folder to write; must not exist yet.", rich_help_panel=OUTPUT)],
    save_dtype: SaveDType = "auto",
    resume: Resume = False,
    as_json: AsJson = False,
    dtype: DType = "auto",
    trust_remote_code: Trust = False,
) -> None:
    """Prune MODEL and save it as a transformers folder. Blocks of different sizes load after `import secateur`."""
    check_names(model, Path(out))
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
    prune_by(parse_recipe(settings), model, out, resume=resume, trust=trust_remote_code, as_json=as_json)


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


def prune_by(recipe: Any, model: str, out: str, *, resume: bool, trust: bool, as_json: bool) -> None:
    """Prune a model by a recipe and print what came of it."""
    from secateur.run.prune import prune as run_prune

    with resumable(RESUME), progress("pruning blocks") as bar:
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

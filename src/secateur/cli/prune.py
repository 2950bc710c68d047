"""The command that prunes a language model or a network, and how a finished run is told."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.cli.advise import tell_plan
from secateur.cli.images import (
    Exempt,
    Factory,
    Images,
    LayerTable,
    Pointwise,
    Repair,
    Sites,
    Taps,
    Test,
    Weights,
    open_by,
    prune_pictures,
    refuse,
)
from secateur.images.names import is_network
from secateur.terminal.choices import AllocatorName, Method, Pattern, PruningDType, SaveDType
from secateur.terminal.console import (
    AMOUNT,
    CALIBRATION,
    MACHINE,
    OUTPUT,
    RESUME,
    WHAT,
    AsJson,
    Column,
    Device,
    DryRun,
    Length,
    Model,
    Resume,
    Seed,
    Text,
    Trust,
    check_names,
    resumable,
    say,
)
from secateur.terminal.progress import progress

__all__ = ["prune", "prune_by"]


_RoundTo = Annotated[
    int | None,
    typer.Option(
        min=1, help="Keep channels in multiples of this number. Default is 8, or 1 for networks.", rich_help_panel=WHAT
    ),
]
_Samples = Annotated[
    int | None,
    typer.Option(min=1, help="Calibration texts or pictures. Default is 16, or 128.", rich_help_panel=CALIBRATION),
]
_Ratio = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Share of weights to remove, 0 to 1; n:m patterns fix it.", rich_help_panel=AMOUNT),
]
_Budget = Annotated[
    str | None,
    typer.Option(help="Reach a size instead of a ratio: 100M-params, 0.5-macs, 25-ms, ...", rich_help_panel=AMOUNT),
]
_Out = Annotated[str, typer.Option(help="Folder to write; must not exist yet.", rich_help_panel=OUTPUT)]
_Refit = Annotated[
    str | None,
    typer.Option(help="Fit the kept weights again after the method: cg (language models).", rich_help_panel=WHAT),
]
_Reconstruct = Annotated[
    int | None,
    typer.Option(min=1, help="Train each pruned block on dense outputs for this many steps.", rich_help_panel=WHAT),
]
_Match = Annotated[
    str | None,
    typer.Option(help="dense fits each layer to the dense model's outputs (language models).", rich_help_panel=WHAT),
]
_MemoryGB = Annotated[
    float, typer.Option(min=0, help="GB of activations in memory before they spill to disk.", rich_help_panel=MACHINE)
]
_Ratios = Annotated[
    Path | None,
    typer.Option(help="A file that `secateur allocate` wrote; overrides --allocator.", rich_help_panel=AMOUNT),
]


_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")


def prune(
    model: Model,
    *,
    method: Method = None,
    pattern: Pattern = None,
    taps: Taps = None,
    pointwise: Pointwise = None,
    table: LayerTable = None,
    sites: Sites = "all",
    exempt: Exempt = None,
    repair: Repair = "auto",
    refit: _Refit = None,
    reconstruct: _Reconstruct = None,
    match: _Match = None,
    round_to: _RoundTo = None,
    ratio: _Ratio = None,
    budget: _Budget = None,
    allocator: AllocatorName = "uniform",
    ratios: _Ratios = None,
    calibration: Text = "bundled",
    text_column: Column = None,
    samples: _Samples = None,
    length: Length = None,
    seed: Seed = 0,
    images: Images = None,
    test: Test = None,
    out: _Out,
    save_dtype: SaveDType = "auto",
    dry_run: DryRun = False,
    resume: Resume = False,
    as_json: AsJson = False,
    weights: Weights = "auto",
    factory: Factory = None,
    dtype: PruningDType = "auto",
    device: Device = "auto",
    memory_gb: _MemoryGB = 4.0,
    trust_remote_code: Trust = False,
) -> None:
    """Prune MODEL, a language model or a network that reads pictures, and save it as a folder.

    What transformers cannot load by itself loads after `import secateur`.
    """
    given = dict(locals())  # a command's parameters are its settings
    (_prune_network if is_network(model) else _prune_text)(given)


_OF_NETWORKS = ("test", "exempt", "taps", "pointwise", "table")
_OF_TEXT = ("refit", "reconstruct", "match")
_OF_BOTH = ("pattern", "ratio", "budget", "allocator")


def _some(given: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: given[name] for name in names}


def _prune_network(given: Mapping[str, Any]) -> None:
    """Prune a network that reads images. Raises InputError on what only language models take."""
    model = given["model"]
    text = _some(given, *_OF_TEXT, "ratios", "length", "resume", "dry_run")
    usual = {"device": "auto", "dtype": "auto", "memory_gb": 4.0}
    text |= {name: None if given[name] == value else given[name] for name, value in usual.items()}
    refuse(model, text, "is for language models")
    own = _some(given, *_OF_NETWORKS, *_OF_BOTH, "images", "method", "round_to", "sites", "repair", "samples", "seed")
    network = open_by(model, given["weights"], given["factory"])
    prune_pictures(network, model, given["out"], own, as_json=given["as_json"])


def _prune_text(given: Mapping[str, Any]) -> None:
    """Prune a language model, or print the plan. Raises InputError on what only networks take."""
    model, out = given["model"], given["out"]
    refuse(model, _some(given, *_OF_NETWORKS), "is for networks that read pictures")
    settings = _some(given, *_OF_TEXT, *_OF_BOTH, "device", "dtype", "save_dtype", "memory_gb")
    settings |= {"method": given["method"] or "sparsegpt", "round_to": given["round_to"] or 8}
    settings["ratios"] = _ratios(given["ratios"])
    drawn = {"source": given["images"] or given["calibration"], "samples": given["samples"] or 16}
    settings["calibration"] = drawn | _some(given, "length", "seed", "text_column")
    act = _plan_by if given["dry_run"] else prune_by
    recipe, trust = _parsed(model, None if given["dry_run"] else Path(out), settings), given["trust_remote_code"]
    act(recipe, model, out, resume=given["resume"], trust=trust, as_json=given["as_json"])


def _plan_by(recipe: Any, model: str, out: str, *, resume: bool, trust: bool, as_json: bool) -> None:
    """Print what a run by a recipe would do; nothing is written."""
    from secateur.advise.dry_run import plan_run

    tell_plan(plan_run(model, recipe, trusted=trust), as_json=as_json)


def prune_by(recipe: Any, model: str, out: str, *, resume: bool, trust: bool, as_json: bool) -> None:
    """Prune a model by a recipe and print what came of it."""
    from secateur.run.prune import prune as run_prune

    with resumable(RESUME), progress("reading and pruning blocks") as bar:
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
    if candidates := result.candidates:
        say(
            f"allocation: the best of {len(candidates)} by held-out loss, {min(candidates.values()):.3f} nats a token "
            f"({next(iter(candidates))} {next(iter(candidates.values())):.3f})"
        )
    held = result.held_out or {}
    if "failed" in held:
        say(f"perplexity was not measured, as the model fails when it is asked: {held['failed']}")
    elif held:
        say(
            f"perplexity on {held['windows']} held-out windows of {held['length']:,} calibration tokens: "
            f"{held['before']:.2f} before, {held['after']:.2f} after"
        )
    say(f"next: {_next(result.out, model)}")
    say(f"look: secateur report {shlex.quote(str(result.out))} --out report.html")


def _next(out: Path, model: str) -> str:
    """The command to type next: verify what is smaller, else measure text where there is a tokenizer, else time it."""
    pair = shlex.join(["--", model, str(out)] if str(out).startswith("-") else [model, str(out)])
    if (out / "cut.json").exists() or (out / "blocks.json").exists():
        return f"secateur verify {pair}"
    if any((out / name).exists() for name in _TOKENIZERS) and _writes(out):
        return f"secateur evaluate {shlex.quote(str(out))} --perplexity bundled"
    if (out / "preprocessor_config.json").exists():
        return f"secateur evaluate {shlex.quote(str(out))} --images DIR"
    return f"secateur bench {pair}"


def _writes(out: Path) -> bool:
    """Whether the class that a folder's config names is a language model's."""
    from secateur.storage.source import Source, may_have_language_head, read_config

    return may_have_language_head(read_config(Source(out)))


def _parsed(model: str, out: Path | None, settings: dict[str, Any]) -> Any:
    check_names(model, out)
    from secateur.run.recipe import parse_recipe  # torch takes seconds to import: not for --help

    return parse_recipe(settings)


def _ratios(path: Path | None) -> dict[str, float]:
    from secateur.core.allocation import Allocation

    return {} if path is None else dict(Allocation.load(path).ratios)

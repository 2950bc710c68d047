"""What the commands do when MODEL is a network that reads pictures."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.table import Table

from secateur.core.budget import parse_budget
from secateur.core.errors import DisagreementError, InputError
from secateur.images.names import is_network
from secateur.terminal.console import (
    CALIBRATION,
    MACHINE,
    RESUME,
    WHAT,
    err,
    resumable,
    say,
    screen,
    show,
)
from secateur.terminal.progress import progress

__all__ = [
    "Exempt",
    "Factory",
    "Images",
    "LayerTable",
    "Pointwise",
    "Repair",
    "Run",
    "Sites",
    "Taps",
    "Test",
    "Weights",
    "bench_layers",
    "bench_network",
    "deprune_network",
    "evaluate_network",
    "export_network",
    "open_by",
    "prune_network",
    "prune_pictures",
    "refuse",
    "sparsify_network",
    "train_network",
    "verify_network",
]

Images = Annotated[
    str | None, typer.Option(help="Folder or .zip of pictures that calibrate.", rich_help_panel=CALIBRATION)
]
Test = Annotated[
    str | None,
    typer.Option(help="Pictures with classes: top-1 is measured before and after.", rich_help_panel=CALIBRATION),
]
Repair = Annotated[str, typer.Option(help="Repair of a network: auto, none, norms or refit.", rich_help_panel=WHAT)]
Sites = Annotated[
    str,
    typer.Option(help="Of a network: all, or inner, without residual streams.", rich_help_panel=WHAT),
]
Exempt = Annotated[
    list[str] | None, typer.Option(help="Site that stays as it is; may be repeated.", rich_help_panel=WHAT)
]
Taps = Annotated[
    str | None,
    typer.Option(help="Of deprune: run (the default), balanced, channel or none.", rich_help_panel=WHAT),
]
Pointwise = Annotated[
    str | None,
    typer.Option(help="Of deprune: expanded channels (the default), projected, or none.", rich_help_panel=WHAT),
]
LayerTable = Annotated[
    Path | None,
    typer.Option(help="Of deprune: times that bench --layers wrote; measured if not given.", rich_help_panel=WHAT),
]
Weights = Annotated[
    str,
    typer.Option(help="auto (the published ones), none, or a .safetensors or .pth file.", rich_help_panel=MACHINE),
]
Factory = Annotated[
    str | None,
    typer.Option(help="What makes the network, as package.module:factory.", rich_help_panel=MACHINE),
]


class Run(NamedTuple):
    """How a training is run: what it learns from too, whether it goes on, how its result is printed."""

    teacher: Any
    resume: bool
    as_json: bool


def refuse(model: str, given: dict[str, Any], why: str) -> None:
    """Refuse options that this kind of model does not take."""
    for option, value in given.items():
        if value not in (None, False, [], ()):
            shown = option.replace("_", "-")
            raise InputError(f"--{shown} {why}: {model} takes no --{shown}")


def open_by(model: str, weights: str, factory: str | None, classes: int | None = None) -> Any:
    """Open a network by what the command line says of it."""
    from secateur.storage.network import open_network

    if not is_network(model):
        raise InputError(
            f"{model!r} is no network that reads pictures: give timm:NAME, torchvision:NAME, "
            "bundled:efficientnet-lite0, package.module:factory or a folder that prune wrote"
        )
    arguments = None if classes is None else {"num_classes": classes}
    return open_network(model, weights=weights, factory=factory, arguments=arguments)


def prune_network(
    network: Any, out: str, settings: dict[str, Any], *, images: str | None, test: str | None, as_json: bool
) -> None:
    """Prune a network and print what became of it."""
    from secateur.images.prune import prune_network as run_prune
    from secateur.images.recipe import NetworkRecipe

    recipe = NetworkRecipe(**{key: value for key, value in settings.items() if value is not None})
    result = run_prune(network, out, recipe, images=images, test=test)
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    say(
        "{}: {:,.1f}M MACs before, {:,.1f}M after; ".format(out, *(value / 1e6 for value in result["macs"]))
        + "{:,} parameters before, {:,} after".format(*result["params"])
        + f"; {result['seconds']:.1f} s"
    )
    if "top1" in result:
        say("top-1 on {} pictures: {:.3f} before, {:.3f} after".format(result["tested"], *result["top1"]))
    if kept := result["not_refitted"]:
        say(f"{len(kept)} layers were not refitted, such as {next(iter(kept))}: {next(iter(kept.values()))}")
    say(f"next: secateur verify {shlex.join([network.source, out])}")


def prune_pictures(network: Any, model: str, out: str, given: dict[str, Any], *, as_json: bool) -> None:
    """Prune a network by the method that its options name: zeros by a pattern, deprune, or channels."""
    data = dict[str, Any](images=given["images"], test=given["test"], as_json=as_json)
    deprune = {key: given[key] for key in ("taps", "pointwise", "table")}
    drawn = {"samples": given["samples"], "seed": given["seed"]}
    if given["method"] == "deprune":
        usual = {"pattern": None, "exempt": None, "allocator": "uniform", "sites": "all"}
        refuse(model, {key: given[key] for key in usual if given[key] != usual[key]}, "is not of deprune")
        if given["repair"] == "none":
            raise InputError("deprune repairs by refit or by norms alone: take --repair refit or norms")
        repair = None if given["repair"] == "auto" else given["repair"] == "refit"
        chosen = drawn | {key: given[key] for key in ("budget", "ratio", "taps", "pointwise")}
        chosen |= {"multiple": given["round_to"], "refit": repair}
        deprune_network(network, out, chosen, table=given["table"], **data)
        return
    refuse(model, deprune, "is of method deprune")
    if given["pattern"] is not None:
        zeros = {"method": given["method"] or "sparsegpt", "pattern": given["pattern"], "ratio": given["ratio"]}
        calibration = {"samples": drawn["samples"] or 128, "seed": drawn["seed"]}
        sparsify_network(network, out, zeros | {"calibration": calibration}, **data)
        return
    refuse(model, {"ratio": given["ratio"]}, "goes with --pattern (zeros); channels go by --budget")
    chosen = drawn | {key: given[key] for key in ("method", "budget", "allocator", "repair", "sites")}
    chosen |= {"multiple": given["round_to"], "exempt": tuple(given["exempt"] or ())}
    prune_network(network, out, chosen, **data)


def deprune_network(
    network: Any,
    out: str,
    settings: dict[str, Any],
    *,
    table: Path | None,
    images: str | None,
    test: str | None,
    as_json: bool,
) -> None:
    """Prune taps and channels of depthwise-separable convolutions and print what became of them."""
    from secateur.deprune.prune import prune_depthwise
    from secateur.deprune.recipe import DepruneRecipe

    recipe = DepruneRecipe(**{key: value for key, value in settings.items() if value is not None})
    result = prune_depthwise(network, out, recipe, images=images, test=test, table=table)
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    say("{}: {:,.1f}M MACs before, {:,.1f}M after".format(out, *(value / 1e6 for value in result["macs"])))
    if result["ms"] is not None:
        say(f"one picture, {recipe.engine}: " + "{:.2f} ms before, {:.2f} ms after".format(*result["ms"]))
    if result["taps"]:
        kept, every = (sum(pair[place] for pair in result["taps"].values()) for place in (0, 1))
        say(f"{kept / every:.0%} of the taps stay in {len(result['taps'])} depthwise convolutions")
    if "top1" in result:
        say("top-1 on {} pictures: {:.3f} before, {:.3f} after".format(result["tested"], *result["top1"]))
    say(f"next: secateur train {shlex.quote(out)} --method reconstruct --teacher {shlex.quote(network.source)} ...")


def sparsify_network(
    network: Any, out: str, settings: dict[str, Any], *, images: str | None, test: str | None, as_json: bool
) -> None:
    """Put zeros into a network and print how many."""
    from secateur.images.prune import sparsify_network as run_sparsify
    from secateur.run.recipe import parse_recipe

    result = run_sparsify(network, out, parse_recipe(settings), images=images, test=test)
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    say(f"{out}: {result['sparsity']:.2%} zeros in {len(result['layers'])} layers; {result['seconds']:.1f} s")
    if skipped := result["skipped"]:
        say(f"{len(skipped)} layers were left, such as {next(iter(skipped))}: {next(iter(skipped.values()))}")
    if "top1" in result:
        say("top-1 on {} pictures: {:.3f} before, {:.3f} after".format(result["tested"], *result["top1"]))


def train_network(model: Any, out: str, settings: Mapping[str, Any], data: Mapping[str, Any], how: Run) -> None:
    """Train a network and print what became of it.

    settings: of the training, with target, round_to and distill of s2h. data: images and test.
    """
    from secateur.images.train import NetworkTraining
    from secateur.images.train import train_network as run_train
    from secateur.train.s2h import SoftToHardSettings

    if data["images"] is None:
        raise InputError("training a network needs pictures with classes: give --images DIR or .zip")
    own = {key: value for key, value in settings.items() if value is not None}
    named = {"target": "target", "round_to": "divisor", "distill": "distill"}  # as the settings call them
    known = {name: own.pop(key) for key, name in named.items() if key in own}
    if "target" in known:
        known["target"] = _share(known["target"])
    widths = SoftToHardSettings(**known)
    training = NetworkTraining(**own, widths=widths)
    with resumable(RESUME), progress("training steps") as bar:
        result = run_train(model, out, training, **data, teacher=how.teacher, resume=how.resume, progress=bar)
    if how.as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        _tell_training(result, out)


def _tell_training(result: dict[str, Any], out: str) -> None:
    last = result["history"][-1]
    if "macs" in result:
        say("{}: {:,.1f}M MACs before, {:,.1f}M after".format(out, *(value / 1e6 for value in result["macs"])))
        say("held-out accuracy: soft network {soft:.3f}, hard network {hard:.3f}".format(**last))
    else:
        say(f"{out}: trained; held-out accuracy {last['hard']:.3f}")
    if parts := result.get("parts"):
        before, after = (sum(values) / len(parts) for values in zip(*parts.values(), strict=True))
        say(f"relative error of {len(parts)} parts: {before:.3f} before, {after:.3f} after")
    if result["top1"] is not None:
        say(f"top-1 on {result['tested']:,} pictures: {result['top1']:.3f}")


def _share(target: str) -> float:
    """The share of MACs that a target such as 0.3-macs names."""
    budget = parse_budget(target)
    if budget.unit != "macs" or budget.limit > 1:
        raise InputError(f"target {target!r} should be a share of the MACs, such as 0.3-macs")
    return budget.limit


def evaluate_network(model: str, images: str | None, *, weights: str, factory: str | None, as_json: bool) -> None:
    """Print the top-1 accuracy of a network."""
    from secateur.images.pictures import pictures_for
    from secateur.images.prune import top1

    if images is None:
        raise InputError("evaluating a network needs pictures with classes: give --images DIR or .zip")
    network = open_by(model, weights, factory)
    pictures = pictures_for(network, images)
    show({"top1": top1(network.model, pictures), "pictures": len(pictures.pixels)}, as_json=as_json)


def verify_network(dense: str, pruned: str, *, factory: str | None, as_json: bool) -> None:
    """Print whether a shrunk network computes what the dense one with zeros does; exit code 1 if not."""
    from secateur.images.agreement import verify_network as run_verify

    try:
        far = run_verify(dense, pruned, factory=factory)
    except DisagreementError as error:
        if as_json:
            typer.echo(json.dumps({"same": False, "why": str(error)}))
        err.print(f"not the same: {error}", soft_wrap=True)
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps({"same": True, "outputs": far}))
        return
    say(f"same: outputs differ by at most {far:.1e} of their largest value")


def export_network(folder: str, to: str, out: Path, *, factory: str | None, as_json: bool) -> None:
    """Write a network as ONNX and print where."""
    from secateur.images.export import export_network as run_export

    if to != "onnx":
        raise InputError(f"a network is written as onnx, not as {to}")
    written = run_export(folder, out, factory=factory)
    if as_json:
        typer.echo(json.dumps({"out": str(written), "format": to}))
        return
    say(written)


def bench_network(
    dense: str, pruned: str, *, engines: list[str], batches: list[int], rounds: int, factory: str | None, as_json: bool
) -> None:
    """Print how long a forward pass of both networks takes."""
    from secateur.images.bench import bench_networks

    pair = [open_by(name, "none", factory) for name in (dense, pruned)]
    found = bench_networks(*pair, engines=engines, batches=batches, rounds=rounds)
    if as_json:
        show(found, as_json=True)
        return
    table = Table("engine", "pictures at once", "dense, ms", "pruned, ms", "times as fast")
    for name, times in found.items():
        engine, _, batch = name.partition(" batch ")
        table.add_row(engine, batch, *(f"{times[key]:,.2f}" for key in ("dense_ms", "pruned_ms", "times_faster")))
    screen.print(table)


def bench_layers(model: str, out: Path | None, *, engine: str, factory: str | None, as_json: bool) -> None:
    """Time every layer of a network at several widths and taps; print the table or write it."""
    from secateur.core.files import check_output
    from secateur.deprune.depthwise import describe_separable
    from secateur.deprune.table import measure_table

    if engine not in ("blocked", "torch"):
        raise InputError(f"layers are timed in blocked or torch, not in {engine!r}")
    if out is not None:
        check_output(out)
    network = open_by(model, "none", factory)
    parts = describe_separable(network.model, network.example, "expanded")
    table = measure_table(parts, network.example, engine=engine)
    if out is not None:
        table.save(out)
        say(f"{out}: times of {len(table.layers)} layers")
        return
    show({name: [list(row) for row in rows] for name, rows in table.layers.items()}, as_json=as_json)

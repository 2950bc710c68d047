"""What the commands do when MODEL is a network that reads pictures."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from secateur.cli.console import (
    CALIBRATION,
    MACHINE,
    RESUME,
    WHAT,
    err,
    progress,
    resumable,
    say,
    show,
)
from secateur.core.budget import parse_budget
from secateur.core.errors import DisagreementError, InputError
from secateur.images.names import is_network

__all__ = [
    "Exempt",
    "Factory",
    "Images",
    "Repair",
    "Run",
    "Sites",
    "Test",
    "Weights",
    "bench_network",
    "evaluate_network",
    "export_network",
    "open_by",
    "prune_network",
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
    from secateur.images.pictures import read_pictures
    from secateur.images.prune import top1

    if images is None:
        raise InputError("evaluating a network needs pictures with classes: give --images DIR or .zip")
    network = open_by(model, weights, factory)
    pictures = read_pictures(images, network.preprocessing)
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
    show(bench_networks(*pair, engines=engines, batches=batches, rounds=rounds), as_json=as_json)

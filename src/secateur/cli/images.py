"""What the commands do when MODEL is a network that reads pictures."""

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.cli.console import CALIBRATION, MACHINE, WHAT, err, say, show
from secateur.core.errors import DisagreementError, InputError

__all__ = [
    "Exempt",
    "Factory",
    "Images",
    "Repair",
    "Sites",
    "Test",
    "Weights",
    "bench_network",
    "evaluate_network",
    "export_network",
    "open_by",
    "prune_network",
    "refuse",
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


def refuse(model: str, given: dict[str, Any], why: str) -> None:
    """Refuse options that this kind of model does not take."""
    for option, value in given.items():
        if value not in (None, False, [], ()):
            raise InputError(f"--{option} {why}, and {model} is none")


def open_by(model: str, weights: str, factory: str | None) -> Any:
    """Open a network by what the command line says of it."""
    from secateur.storage.network import open_network

    return open_network(model, weights=weights, factory=factory)


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

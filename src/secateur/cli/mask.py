"""Commands on files of n:m masks: apply, diff, pack, unpack."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.terminal.console import OUTPUT, WHAT, AsJson, Commands, show

__all__ = ["mask"]

mask = typer.Typer(cls=Commands, no_args_is_help=True, help="Put files of n:m masks on models, compare and pack them.")

_Dense = Annotated[str, typer.Argument(help="The dense model, as prune takes it.")]
_File = Annotated[Path, typer.Argument(help="A file that `mask pack` wrote.")]
_Any = Annotated[Path, typer.Argument(help="A pruned folder, a masks.safetensors file, or a packed file.")]
_Folder = Annotated[Path, typer.Option(help="Folder to write; must not exist yet.", rich_help_panel=OUTPUT)]
_Written = Annotated[Path, typer.Option(help="File to write; must not exist yet.", rich_help_panel=OUTPUT)]
_Of = Annotated[
    str | None,
    typer.Option(help="The dense model, so that the file is refused on any other.", rich_help_panel=WHAT),
]
_NM = Annotated[str, typer.Option(help="n:m, how many of m weights stay.", rich_help_panel=WHAT)]


@mask.command()
def apply(dense: _Dense, masks: _File, out: _Folder, as_json: AsJson = False) -> None:
    """Save DENSE under the masks of a file: one dense model, a file for each domain."""
    from secateur.masks.apply import apply_masks

    show(apply_masks(dense, masks, out), as_json=as_json)


@mask.command()
def diff(one: _Any, other: _Any, as_json: AsJson = False) -> None:
    """Compare two sets of masks, block of four by block of four."""
    from secateur.masks.apply import compare_masks

    found = compare_masks(one, other)
    share = found.changed / max(1, found.blocks)
    most = max(found.layers, key=lambda name: found.layers[name], default="")
    told = {"blocks": found.blocks, "changed": found.changed, "share": share}
    if most:
        told["most"] = found.layers[most]
    show(told, as_json=as_json)


@mask.command()
def pack(masks: _Any, out: _Written, dense: _Of = None, pattern: _NM = "2:4", as_json: AsJson = False) -> None:
    """Write the n:m masks of a pruned folder in as few bits as they need: 3 for a block of 2:4."""
    from secateur.core.errors import InputError
    from secateur.core.pattern import NM, parse_pattern
    from secateur.masks.apply import pack_masks

    shape = parse_pattern(pattern)
    if not isinstance(shape, NM):
        raise InputError(f"pattern {pattern!r} is not n:m, such as 2:4")
    packed = pack_masks(masks, shape, dense, out)
    weights = sum(own.numel() for own in packed.numbers.values()) * shape.m
    size = out.stat().st_size
    show({"layers": len(packed.numbers), "bytes": size, "bits a weight": 8 * size / max(1, weights)}, as_json=as_json)


@mask.command()
def unpack(masks: _File, out: _Written, as_json: AsJson = False) -> None:
    """Write the masks of a packed file as masks.safetensors are: one bit for every weight."""
    from secateur.masks.apply import unpack_masks

    made = unpack_masks(masks, out)
    show({"layers": len(made.keep), "sparsity": made.sparsity}, as_json=as_json)

"""Masks that learning starts from: those of a one-shot method, or of a folder that was pruned before."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from secateur.adapt.layer import Layer
from secateur.calibrate.data import Calibration
from secateur.core.errors import InputError
from secateur.core.files import room_beside
from secateur.core.mask import Masks
from secateur.core.pattern import NM
from secateur.machine.ranks import alone
from secateur.run.methods import METHODS
from secateur.run.prune import Progress, prune
from secateur.run.recipe import Recipe
from secateur.storage.source import Source

__all__ = ["Room", "check_prior", "find_prior"]

_TOKENS = 16_384  # of the text, that a one-shot method is calibrated on


class Room(NamedTuple):
    """Beside which name a one-shot method may write for a while, and who is told how far it is."""

    out: Path
    progress: Progress


def find_prior(
    name: str, source: Source, pattern: NM, calibration: Calibration, place: Room
) -> Mapping[str, Tensor] | None:
    """Keep masks by layer name; None where the name is none.

    name: a method that zeroes weights, such as sparsegpt, a folder with masks.safetensors, or none.
    Raises InputError on other names.
    """
    if name == "none":
        return None
    folder = Path(name)
    if (folder / "masks.safetensors").is_file():
        return Masks.load(folder / "masks.safetensors").keep
    if name not in METHODS:
        raise InputError(
            f"prior {name!r} is neither a method (magnitude, wanda, sparsegpt, ...), nor a folder with "
            "masks.safetensors, nor none"
        )
    recipe = Recipe(
        method=name,
        pattern=f"{pattern.n}:{pattern.m}",
        calibration=replace(calibration, samples=-(-_TOKENS // (calibration.length or _TOKENS))),
    )
    room = room_beside(place.out)
    try:
        with alone():  # every process has a folder of its own
            prune(source, recipe, room, progress=place.progress)
        return Masks.load(room / "masks.safetensors").keep
    finally:
        _clear(room)


def check_prior(keep: Mapping[str, Tensor], layers: Sequence[Layer], name: str) -> None:
    """Refuse masks of another model. Raises InputError on a layer without a mask, or with one of another size."""
    for layer in layers:
        shape = tuple(layer.weight.shape)
        if layer.name not in keep:
            raise InputError(
                f"prior {name!r} has no mask of {layer.name}: name a folder that was pruned from this model"
            )
        if tuple(keep[layer.name].shape) != shape:
            raise InputError(
                f"prior {name!r} has a mask of {list(keep[layer.name].shape)} for {layer.name} of {list(shape)}"
            )


def _clear(room: Path) -> None:
    for path in (room, room.with_name(f"{room.name}.partial")):
        shutil.rmtree(path, ignore_errors=True)

"""Pictures of a folder or a zip, in the order of their names, and how a model of transformers prepares them."""

import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from secateur.core.errors import InputError, ModelError, first_line
from secateur.core.seed import generator
from secateur.storage.loading import quiet
from secateur.storage.source import Source

__all__ = ["Pictures", "load_preparation", "read_prepared"]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_NUMBER = re.compile(r"[0-9]{1,9}")
_LARGEST = 200_000_000  # pixels of a picture that is decoded
_BYTES = 1 << 30  # of a file that is read
_WHITE = 65535  # of 16 bits
_SIDE = 8192  # pixels that a picture is prepared to, at most

Prepare = Callable[[Any], Tensor]  # of a PIL picture, `[channels, high, wide]`


class Pictures(NamedTuple):
    """Prepared pictures `[count, channels, high, wide]` and the class of each; None where classes are unknown.

    guessed: folders whose classes are their places in sorted order; 0 where they are told otherwise.
    """

    pixels: Float[Tensor, "count channels high wide"]
    classes: Int[Tensor, " count"] | None
    guessed: int = 0


def read_prepared(
    source: str | Path,
    prepare: Prepare,
    *,
    limit: int | None = None,
    seed: int = 0,
    known: Mapping[str, int] | None = None,
) -> Pictures:
    """Read the pictures of a folder or a .zip, in the order of their names; `limit` draws so many by `seed`.

    A picture's class is the folder it lies in: the number, where all folders are numbers, what `known` says, where
    it has all of their names, or their place in sorted order. Pictures that lie in no folder have the class that
    their name is, where all are numbers, and none otherwise. Raises InputError naming a picture that cannot be read,
    and where there is none.
    """
    path = Path(source)
    with _opened(path) as opened:
        names = sorted(name for name in opened.names if name.lower().endswith(_SUFFIXES))
        if not names:
            raise InputError(f"{path} holds no picture: give a folder or .zip of .jpg or .png files")
        classes, guessed = _classes(names, known or {})
        chosen: Sequence[int] = range(len(names))
        if limit is not None and limit < len(names):
            order = torch.randperm(len(names), generator=generator(seed, "pictures"))
            chosen = sorted(order[:limit].tolist())
        pixels = torch.empty(0)
        for place, number in enumerate(chosen):
            one = _prepared(opened.read(names[number]), f"{path}: {names[number]}", prepare)
            if not torch.isfinite(one).all():
                raise InputError(f"{path}: {names[number]} becomes NaN or inf: check image_mean and image_std")
            if not place:
                pixels = torch.empty(len(chosen), *one.shape)
            if one.shape != pixels.shape[1:]:
                shapes = f"{[*one.shape]}, and the one before {[*pixels.shape[1:]]}"
                raise InputError(f"{path}: {names[number]} becomes {shapes}: the model's pictures must have one size")
            pixels[place] = one
    return Pictures(pixels, None if classes is None else classes[torch.tensor(chosen)], guessed)


def load_preparation(source: Source) -> Prepare:
    """How the image processor of a model folder prepares a picture, without torchvision.

    Raises ModelError where the folder has none, or transformers cannot read it.
    """
    from transformers import AutoImageProcessor

    if not (source.folder / "preprocessor_config.json").is_file():
        raise ModelError(f"{source} has no preprocessor_config.json, and pictures cannot be prepared without one")
    try:
        with quiet():
            processor: Any = AutoImageProcessor.from_pretrained(
                source.folder, backend="pil", trust_remote_code=source.trusted
            )
    except Exception as error:  # a broken file may raise anything
        raise ModelError(f"the image processor of {source} cannot be read: {first_line(error)}") from error

    sizes = [value for name in ("size", "crop_size") for value in dict(getattr(processor, name, None) or {}).values()]
    if any(not isinstance(value, int) or not 0 < value <= _SIDE for value in sizes if value is not None):
        raise ModelError(
            f"the image processor of {source} asks for pictures of {sizes} pixels: at most {_SIDE} are made"
        )

    def prepare(picture: Any) -> Tensor:
        pixels: Tensor = processor(images=picture, return_tensors="pt")["pixel_values"][0]
        return pixels

    return prepare


class _Opened(NamedTuple):
    names: Sequence[str]
    read: Any


@contextmanager
def _opened(path: Path) -> Iterator[_Opened]:
    """The names of what lies in a folder or a zip, and how each is read."""
    if path.is_dir():
        names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        yield _Opened(names, lambda name: _read(path, name, lambda: (path / name).open("rb")))
        return
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such folder or .zip of pictures") from error
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise InputError(f"{path} is no folder and no readable .zip of pictures: {error}") from error
    with archive:
        names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
        yield _Opened(names, lambda name: _read(path, name, lambda: archive.open(name)))


def _read(path: Path, name: str, open_one: Callable[[], IO[bytes]]) -> bytes:
    """A file's bytes. Raises InputError naming one that is damaged, encrypted or too large."""
    try:
        with open_one() as file:
            data = file.read(_BYTES + 1)
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        OSError,
        EOFError,
        RuntimeError,
        zlib.error,
        lzma.LZMAError,
    ) as error:
        raise InputError(f"{path}: {name} cannot be read: {error}") from error
    if len(data) > _BYTES:
        raise InputError(f"{path}: {name} is larger than {_BYTES >> 30} GiB, and is no picture")
    return data


def _classes(names: Sequence[str], known: Mapping[str, int]) -> tuple[Tensor | None, int]:
    """The class of each picture, None where nothing tells, and how many were guessed by their names' order."""
    folders = [name.rpartition("/")[0].rpartition("/")[2] for name in names]
    if not any(folders):
        stems = [name.rpartition(".")[0] for name in names]
        return (torch.tensor([int(stem) for stem in stems]) if all(map(_NUMBER.fullmatch, stems)) else None), 0
    if all(map(_NUMBER.fullmatch, folders)):
        return torch.tensor([int(folder) for folder in folders]), 0
    if known.keys() >= set(folders):
        return torch.tensor([known[folder] for folder in folders]), 0
    places = {folder: number for number, folder in enumerate(sorted(set(folders)))}
    return torch.tensor([places[folder] for folder in folders]), len(places)


def _prepared(data: bytes, name: str, prepare: Prepare) -> Tensor:
    """One picture as a model reads it."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise InputError("reading pictures needs Pillow: pip install 'secateur[images]'") from error
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if picture.width * picture.height > _LARGEST:
                raise InputError(f"{name} has {picture.width} x {picture.height} pixels, more than is decoded")
            ready = _colours(picture)
    except UnidentifiedImageError as error:
        raise InputError(f"{name} is no picture that can be read") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{name} is no picture that can be read: {error}") from error
    try:
        return prepare(ready)
    except (ValueError, TypeError, RuntimeError, MemoryError) as error:  # as a processor says what it cannot do
        raise InputError(f"{name} cannot be prepared for the model: {first_line(error) or 'too large'}") from error


def _colours(picture: Any) -> Any:
    """A picture in 8-bit RGB; 16-bit greys are scaled, as PIL's own conversion cuts them off."""
    if not picture.mode.startswith(("I", "F")):
        return picture.convert("RGB")
    from PIL import Image

    values = np.asarray(picture, dtype=np.float64)
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > _WHITE:
        raise ValueError(f"its values run from {values.min():g} to {values.max():g}, and not from 0 to {_WHITE}")
    return Image.fromarray((values * (255 / _WHITE)).round().astype(np.uint8)).convert("RGB")

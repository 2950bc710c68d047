"""Pictures from a folder or a zip, as tensors: read once, resized, cropped and normalised."""

import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from secateur.convnet.trace import evaluating
from secateur.core.errors import InputError
from secateur.core.seed import generator
from secateur.storage.network import Network, Preprocessing

__all__ = ["Pictures", "pictures_for", "read_pictures"]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_NUMBER = re.compile(r"\d+")
_LARGEST = 200_000_000  # pixels of a picture that is decoded


class Pictures(NamedTuple):
    """Normalised pictures `[count, channels, size, size]` and the class of each; None where classes are unknown."""

    pixels: Float[Tensor, "count channels size size"]
    classes: Int[Tensor, " count"] | None


def read_pictures(
    source: str | Path, preprocessing: Preprocessing, *, limit: int | None = None, seed: int = 0
) -> Pictures:
    """Read the pictures of a folder or a .zip, in the order of their names; `limit` draws so many by `seed`.

    A picture's class is the folder it lies in: the number, where all folders are numbers, or
    their place in sorted order. Pictures that lie in no folder have the class that their name
    is, where all are numbers, and none otherwise. Raises InputError naming a picture that
    cannot be read, and where there is none.
    """
    path = Path(source)
    with _opened(path) as opened:
        names = sorted(name for name in opened.names if name.lower().endswith(_SUFFIXES))
        if not names:
            raise InputError(f"{path} holds no picture: give a folder or .zip of .jpg or .png files")
        classes = _classes(names)
        chosen: Sequence[int] = range(len(names))
        if limit is not None and limit < len(names):
            order = torch.randperm(len(names), generator=generator(seed, "pictures"))
            chosen = sorted(order[:limit].tolist())
        pixels = torch.empty(len(chosen), len(preprocessing.mean), preprocessing.size, preprocessing.size)
        for place, number in enumerate(chosen):
            pixels[place] = _decoded(opened.read(names[number]), f"{path}: {names[number]}", preprocessing)
    return Pictures(pixels, None if classes is None else classes[torch.tensor(chosen)])


def pictures_for(network: Network, source: str | Path, *, limit: int | None = None, seed: int = 0) -> Pictures:
    """The pictures of a folder or a .zip as a network reads them, laid out as it is fastest.

    Channels stand last in memory where the network takes them so: convolutions are faster by far.
    """
    pictures = read_pictures(source, network.preprocessing, limit=limit, seed=seed)
    form = torch.channels_last if _takes_channels_last(network.model, pictures.pixels[:1]) else torch.contiguous_format
    return pictures._replace(pixels=pictures.pixels.contiguous(memory_format=form))


@torch.no_grad()
def _takes_channels_last(model: nn.Module, pixels: Tensor) -> bool:
    try:
        with evaluating(model):
            model(pixels.contiguous(memory_format=torch.channels_last))
    except RuntimeError:  # a view of rows that no longer lie one after another
        return False
    return True


class _Opened(NamedTuple):
    names: Sequence[str]
    read: Any


@contextmanager
def _opened(path: Path) -> Iterator[_Opened]:
    """The names of what lies in a folder or a zip, and how each is read."""
    if path.is_dir():
        names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        yield _Opened(names, lambda name: (path / name).read_bytes())
        return
    try:
        with zipfile.ZipFile(path) as archive:
            yield _Opened([entry.filename for entry in archive.infolist() if not entry.is_dir()], archive.read)
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such folder or .zip of pictures") from error
    except (zipfile.BadZipFile, NotImplementedError, OSError, RuntimeError) as error:
        raise InputError(f"{path} is no folder and no readable .zip of pictures: {error}") from error


def _classes(names: Sequence[str]) -> Tensor | None:
    """The class of each picture; None where nothing tells."""
    folders = [name.rpartition("/")[0].rpartition("/")[2] for name in names]
    if not any(folders):
        stems = [name.rpartition(".")[0] for name in names]
        return torch.tensor([int(stem) for stem in stems]) if all(map(_NUMBER.fullmatch, stems)) else None
    if all(map(_NUMBER.fullmatch, folders)):
        return torch.tensor([int(folder) for folder in folders])
    known = {folder: number for number, folder in enumerate(sorted(set(folders)))}
    return torch.tensor([known[folder] for folder in folders])


def _decoded(data: bytes, name: str, preprocessing: Preprocessing) -> Tensor:
    """One picture as `[channels, size, size]`, normalised."""
    import numpy

    try:
        from PIL import Image
    except ImportError as error:
        raise InputError("reading pictures needs Pillow: pip install 'secateur[images]'") from error
    size = preprocessing.size
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if picture.width * picture.height > _LARGEST:
                raise InputError(f"{name} has {picture.width} x {picture.height} pixels, more than is decoded")
            ready = picture.convert("RGB" if len(preprocessing.mean) == 3 else "L")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{name} is no picture that can be read: {error}") from error
    scale = round(size / preprocessing.crop) / min(ready.size)
    wide, high = (max(round(side * scale), size) for side in ready.size)
    if (wide, high) != ready.size:
        ready = ready.resize((wide, high), Image.Resampling.BICUBIC)
    left, top = (wide - size) // 2, (high - size) // 2
    ready = ready.crop((left, top, left + size, top + size))
    values = torch.from_numpy(numpy.array(ready, dtype=numpy.float32) / 255).reshape(size, size, -1).permute(2, 0, 1)
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (preprocessing.mean, preprocessing.std))
    return (values - mean) / std

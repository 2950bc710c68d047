"""Read and write safetensors checkpoints a few tensors at a time."""

import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from secateur.core.cache import file_digest
from secateur.core.errors import ModelError, NumericalError
from secateur.core.files import read_document, write_document

__all__ = ["Checkpoint", "TensorInfo", "write_checkpoint"]

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}

TensorInfo = tuple[torch.dtype, tuple[int, ...]]


class Checkpoint:
    """The safetensors of a model folder: names and shapes at once, data when asked.

    A shard is mapped anew for every read, so pages of earlier reads do not stay
    resident and memory does not grow with the model.
    """

    def __init__(self, folder: Path) -> None:
        """Read the headers. Raises ModelError when a shard is missing or truncated."""
        self.folder = folder
        self._where: dict[str, Path] = {}
        self._info: dict[str, TensorInfo] = {}
        places = self._index()
        for shard in sorted(set(places.values())):
            self._read_header(folder / shard)
        missing = [name for name in places if name not in self._where]
        if missing:
            raise ModelError(f"{folder / places[missing[0]]} lacks {missing[0]!r}, which the index places there")

    def names(self) -> list[str]:
        """Every tensor's name."""
        return list(self._where)

    def __contains__(self, name: str) -> bool:
        """Whether the checkpoint holds a tensor of this name."""
        return name in self._where

    def info(self, name: str) -> TensorInfo:
        """A tensor's dtype and shape, without reading it."""
        return self._info[name]

    def check_finite(self) -> None:
        """Read every tensor once, one at a time. Raises NumericalError naming the first that holds NaN or inf."""
        for name, (dtype, _) in self._info.items():
            if dtype.is_floating_point and not torch.isfinite(self.read(name)).all():
                raise NumericalError(f"{name} holds NaN or inf in {self._where[name]}: download the model again")

    def size(self) -> tuple[int, int]:
        """How many numbers the checkpoint holds, and in how many bytes."""
        infos = [(dtype, math.prod(shape)) for dtype, shape in self._info.values()]
        return sum(count for _, count in infos), sum(dtype.itemsize * count for dtype, count in infos)

    def digests(self) -> dict[str, str]:
        """SHA-256 of the config and of every file that holds tensors, by its name."""
        files = {self.folder / "config.json", *self._where.values()}
        return {file.name: file_digest(file) for file in sorted(files)}

    def read(self, name: str) -> Tensor:
        """One tensor, read from its shard. Raises ModelError when the shard is damaged."""
        with _opened(self._where[name]) as file:
            return file.get_tensor(name)

    def _index(self) -> dict[str, str]:
        """The file of every tensor; a single file stands above an index, as in transformers."""
        single = self.folder / "model.safetensors"
        if single.exists():
            with _opened(single) as file:
                return dict.fromkeys(file.keys(), single.name)
        index = self.folder / "model.safetensors.index.json"
        if not index.exists():
            raise ModelError(
                f"{self.folder} holds no model.safetensors: only safetensors checkpoints are read "
                "(pickled .bin files can run code); convert it with save_pretrained"
            )
        places = read_document(index).get("weight_map")
        if not places or not isinstance(places, dict) or not all(map(_file_name, places.values())):
            raise ModelError(f"{index} has no usable weight_map: download the model again")
        return places

    def _read_header(self, shard: Path) -> None:
        with _opened(shard) as file:
            for name in file.keys():
                piece = file.get_slice(name)
                if piece.get_dtype() not in _DTYPES:
                    raise ModelError(f"{shard}: {name!r} is stored as {piece.get_dtype()}, not a plain number type")
                self._where[name] = shard
                self._info[name] = (_DTYPES[piece.get_dtype()], tuple(piece.get_shape()))


def _file_name(shard: Any) -> bool:
    return isinstance(shard, str) and shard not in ("", ".", "..") and Path(shard).name == shard and "\0" not in shard


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read, it may be truncated: {error}") from error


def write_checkpoint(
    folder: Path, plan: Mapping[str, TensorInfo], tensors: Iterable[tuple[str, Tensor]], *, shard_bytes: int
) -> None:
    """Write a sharded checkpoint from a stream of tensors, holding one at a time.

    `tensors` yields every name of `plan`, in its order; the plan fixes the headers
    before any data is seen. One shard is called model.safetensors, several get an index.
    """
    shards = _split(plan, shard_bytes)
    total = len(shards)
    names = [
        "model.safetensors" if total == 1 else f"model-{i + 1:05d}-of-{total:05d}.safetensors" for i in range(total)
    ]
    stream = iter(tensors)
    for file, part in zip(names, shards, strict=True):
        _write_shard(folder / file, part, stream)
    if total > 1:
        places = {name: file for file, part in zip(names, shards, strict=True) for name in part}
        size = sum(_size(info) for info in plan.values())
        index = {"metadata": {"total_size": size}, "weight_map": places}
        write_document(folder / "model.safetensors.index.json", index)


def _size(info: TensorInfo) -> int:
    dtype, shape = info
    return dtype.itemsize * int(torch.Size(shape).numel())


def _split(plan: Mapping[str, TensorInfo], limit: int) -> list[dict[str, TensorInfo]]:
    shards: list[dict[str, TensorInfo]] = [{}]
    held = 0
    for name, info in plan.items():
        if shards[-1] and held + _size(info) > limit:
            shards.append({})
            held = 0
        shards[-1][name] = info
        held += _size(info)
    return shards


def _write_shard(path: Path, part: Mapping[str, TensorInfo], stream: Iterator[tuple[str, Tensor]]) -> None:
    """Write one file of the safetensors format: length, JSON header, raw little-endian data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in part.items():
        start, end = end, end + _size((dtype, shape))
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants data to start at a multiple of 8
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, (dtype, shape) in part.items():
            given, tensor = next(stream)
            if given != name or tensor.dtype != dtype or tuple(tensor.shape) != shape:
                raise ModelError(f"expected {name!r} {dtype} {shape} next, got {given!r} {tensor.dtype}")
            # Numpy has no bfloat16, bytes it has.
            data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            file.write(memoryview(data.numpy()))

"""Processes that torchrun started: which one this is, and what they tell each other. A lone process tells nobody."""

import copy
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch import distributed as dist

from secateur.core.errors import SecateurError
from secateur.core.protocols import Statistic

__all__ = ["agreed", "alone", "mean", "merged", "place", "processes", "shared", "tensors_from", "wait"]

_alone: ContextVar[bool] = ContextVar("alone", default=False)
S = TypeVar("S", bound=Statistic)
_LONG = timedelta(days=1)  # that others wait while one works; a process that dies is noticed at once
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.bool, torch.uint8, torch.int64)


@contextmanager
def processes() -> Iterator[tuple[int, int]]:
    """This process's number and how many there are; torchrun tells them by the environment."""
    if not dist.is_available() or not os.environ.get("TORCHELASTIC_RUN_ID") or dist.is_initialized():
        yield place()
        return
    with _talking():
        dist.init_process_group("gloo", timeout=_LONG)
    try:
        yield place()
    finally:
        dist.destroy_process_group()


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process does all the work of a call itself, and tells nobody."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def place() -> tuple[int, int]:
    """This process's number, from 0, and how many processes share the work."""
    if _alone.get():
        return 0, 1
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def wait() -> None:
    """Until every process is here."""
    if place()[1] > 1:
        with _talking():
            dist.barrier()


def shared(data: Any) -> Any:
    """What the first process has, as JSON holds it; the others' own is not looked at."""
    rank, count = place()
    if count == 1:
        return data
    text = json.dumps(data).encode() if rank == 0 else b""
    size = torch.tensor([len(text)])
    with _talking():
        dist.broadcast(size, 0)
        sent = torch.empty(int(size), dtype=torch.uint8)
        if rank == 0:
            sent.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
        dist.broadcast(sent, 0)
    return json.loads(bytes(sent.tolist()))


def mean(value: float) -> float:
    """The mean of every process's number."""
    _, count = place()
    if count == 1:
        return value
    total = torch.tensor([value], dtype=torch.float64)
    with _talking():
        dist.all_reduce(total)
    return float(total) / count


def agreed(number: int) -> int:
    """The least of every process's number."""
    _, count = place()
    if count == 1:
        return number
    least = torch.tensor([number])
    with _talking():
        dist.all_reduce(least, dist.ReduceOp.MIN)
    return int(least)


def merged(statistic: S) -> S:
    """The statistic of every process's inputs, merged in the order of processes, so that all hold the same bits.

    Two statistics are held at a time. Every process must have seen inputs.
    """
    _, count = place()
    if count == 1:
        return statistic
    parts = {name: value for name, value in sorted(vars(statistic).items()) if isinstance(value, Tensor | int)}
    total: S | None = None
    for rank in range(count):
        other = copy.copy(statistic)
        sent = tensors_from(rank, {name: torch.as_tensor(value) for name, value in parts.items()})
        for name, value in parts.items():
            found = cast(Tensor, sent[name])
            setattr(other, name, found.to(value.device) if isinstance(value, Tensor) else int(found))
        total = other if total is None else total.merge(other)
    return cast(S, total)


def tensors_from(rank: int, tensors: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
    """One process's tensors by name; the other processes name the same ones, of any shape, or None."""
    if place()[1] == 1:
        return dict(tensors)
    return {name: _tensor(rank, tensor) for name, tensor in tensors.items()}


def _tensor(rank: int, tensor: Tensor | None) -> Tensor | None:
    """A tensor of one process whose shape the others do not know."""
    head = torch.full((10,), -1)
    if tensor is not None and rank == place()[0]:
        head[: tensor.dim() + 2] = torch.tensor([_DTYPES.index(tensor.dtype), tensor.dim(), *tensor.shape])
    with _talking():
        dist.broadcast(head, rank)
        if head[0] < 0:
            return None
        shape = head[2 : 2 + int(head[1])].tolist()
        sent = torch.empty(shape, dtype=_DTYPES[int(head[0])])
        if tensor is not None and rank == place()[0]:
            sent.copy_(tensor)
        # Bytes: gloo sends no booleans, and not every kind of half precision.
        dist.broadcast(sent.reshape(-1).view(torch.uint8), rank)
    return sent


@contextmanager
def _talking() -> Iterator[None]:
    """Turn what the network says of a process that is gone into one sentence."""
    try:
        yield
    except RuntimeError as error:
        raise SecateurError(
            f"process {place()[0]} lost the others, of which one has ended ({str(error).splitlines()[0][:160]}): "
            "finished blocks are kept, rerun the same command with --resume"
        ) from error

"""blocked(model, example): a network that reads pictures, run in blocks of 16 channels by compiled code."""

import ctypes
import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from secateur.core.compiled import library
from secateur.core.errors import DisagreementError, InputError, ModelError
from secateur.runtime.graph import Graph, Step, read_steps

__all__ = ["BLOCK", "BlockedNetwork", "Program", "blocked", "make_program"]

BLOCK = 16
_SOURCE = Path(__file__).with_suffix(".cpp")
_KINDS = {"conv": 0, "depthwise": 1, "pool": 2, "scale": 3, "add": 4}
_ACTIVATIONS = {"none": 0, "relu": 1, "relu6": 2, "hardswish": 3, "hardsigmoid": 4, "sigmoid": 5, "silu": 6}
_TOLERANCE = 1e-4  # of the largest output, between blocks and torch
_log = logging.getLogger(__name__)


class Program(NamedTuple):
    """What the compiled code runs; the fields of `ops` and `buffers` are those of blocked.cpp.

    split: the first operation that takes all images at once. room, tail: floats that buffers of one image, and
    those of all images for each of them, need. layers: of every operation, the module whose weight it has. taps: of
    depthwise convolutions, kept and all, in blocks of 16.
    """

    ops: Tensor
    buffers: Tensor
    data: Tensor
    table: Tensor
    split: int
    room: int
    tail: int
    input: tuple[int, ...]
    out: int
    classes: int
    layers: tuple[str, ...]
    taps: tuple[int, int]


class _Shape(ctypes.Structure):
    _fields_ = (
        ("ops", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("split", ctypes.c_int64),
        ("buffers", ctypes.c_void_p),
        ("many", ctypes.c_int64),
        ("data", ctypes.c_void_p),
        ("table", ctypes.c_void_p),
    )


class BlockedNetwork(nn.Module):
    """Logits `[batch, classes]` of pictures `[batch, channels, h, w]`, in float32, on as many threads as torch has.

    Taps at which 16 channels of a depthwise convolution have zeros are not computed. It has no parameters.
    """

    def __init__(self, program: Program, flags: tuple[str, ...] = ()) -> None:
        """flags: more of the compiler's. Raises InputError where nothing compiles C++ here."""
        super().__init__()
        made: Any = library(_SOURCE, flags)
        if made is None:
            raise InputError("running in blocks needs a C++ compiler: install g++, or load without runtime=")
        self.program, self._run = program, made.run_program
        self._shape = _Shape(
            program.ops.data_ptr(),
            len(program.ops),
            program.split,
            program.buffers.data_ptr(),
            len(program.buffers),
            program.data.data_ptr(),
            program.table.data_ptr(),
        )
        self._lock = threading.Lock()
        self._rooms: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """Raises InputError on pictures of another shape than the network was made for."""
        program, own = self.program, pixels.detach().to("cpu", torch.float32).contiguous()
        if own.dim() != 4 or tuple(own.shape[1:]) != program.input:
            wanted = ", ".join(map(str, program.input))
            raise InputError(f"pictures are {list(own.shape)}, and the network in blocks takes [batch, {wanted}]")
        if not len(own):
            return own.new_empty(0, program.classes)
        with self._lock:  # callers on several threads would share the rooms
            return self._computed(own).to(pixels.dtype)

    @torch.no_grad()
    def profile(self, pixels: Tensor, rounds: int = 20) -> dict[str, float]:
        """Milliseconds of a batch in every layer, by the module's name; as '' those of everything else.

        The lower quartile of all rounds: what else the machine does only adds.
        """
        times: list[Tensor] = []
        rest: list[float] = []
        own = pixels.to("cpu", torch.float32).contiguous()
        self(pixels)
        for _ in range(rounds):
            spent = torch.zeros(len(self.program.ops), dtype=torch.float64)
            started = time.perf_counter()
            with self._lock:
                self._computed(own, spent)
            rest.append(time.perf_counter() - started - float(spent.sum()))
            times.append(spent)
        found = {"": 1000 * max(0.0, float(torch.tensor(rest).quantile(0.25)))}
        for layer, own_time in zip(self.program.layers, torch.stack(times).quantile(0.25, dim=0).tolist(), strict=True):
            found[layer] = found.get(layer, 0.0) + 1000 * own_time
        return found

    def _computed(self, own: Tensor, spent: Tensor | None = None) -> Tensor:
        program, count, threads = self.program, len(own), torch.get_num_threads()
        rooms, tail = self._rooms
        if len(rooms) != threads * program.room or len(tail) != count * program.tail:
            rooms, tail = torch.zeros(threads * program.room), torch.zeros(count * program.tail)
            self._rooms = rooms, tail
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self._run(
            ctypes.byref(self._shape),
            pointer(own.data_ptr()),
            number(count),
            number(program.input[0]),
            pointer(rooms.data_ptr()),
            number(program.room),
            pointer(tail.data_ptr()),
            number(threads),
            None if spent is None else pointer(spent.data_ptr()),
        )
        out = program.buffers[program.out]
        first, blocks = int(out[0]) * count, int(out[1])
        stood = tail[first : first + blocks * count * BLOCK].reshape(blocks, count, BLOCK)
        return stood.transpose(0, 1).reshape(count, -1)[:, : program.classes].clone()


def blocked(model: nn.Module, example: Tensor) -> nn.Module:
    """The network in blocks where that runs, or the model itself with a note in the log.

    example: one picture `[1, channels, h, w]`. What runs in blocks must compute what the model does; raises
    DisagreementError where it does not.
    """
    try:
        made = BlockedNetwork(make_program(model, example))
    except (InputError, ModelError) as error:
        _log.warning("%s; torch runs it", error)
        return model
    with torch.no_grad():
        expected, got = model.eval()(example), made(example)
    far = float((expected - got).abs().max() / expected.abs().max().clamp_min(1e-12))
    if not far <= _TOLERANCE:
        raise DisagreementError(f"the network in blocks differs from torch's by {far:.2g} of the largest output")
    return made


def make_program(model: nn.Module, example: Tensor) -> Program:
    """What blocked.cpp runs for a classifier. Raises ModelError where an operation has no place there."""
    graph = read_steps(model, example)
    names = list(graph.steps)
    split = _split(graph)
    tail = set(names[split - 1 :])
    shapes = {graph.input: tuple(example.shape[1:])} | {name: step.shape for name, step in graph.steps.items()}
    order = [graph.input, *names]
    buffers, room, kept = _planned(graph, order, shapes, tail)
    places = {name: place for place, name in enumerate(order)}
    store = _Store()
    ops = [store.row(step, name, buffers, places) for name, step in graph.steps.items()]
    return Program(
        ops=torch.tensor(ops),
        buffers=torch.tensor(buffers),
        data=torch.cat(store.data),
        table=torch.tensor(store.table or [0]),
        split=split,
        room=room,
        tail=kept,
        input=tuple(int(size) for size in example.shape[1:]),
        out=places[graph.output],
        classes=shapes[graph.output][0],
        layers=tuple(step.layer for step in graph.steps.values()),
        taps=(store.kept, store.all),
    )


def _split(graph: Graph) -> int:
    """The first step after the last one that reads more than a pixel; that one pools."""
    names = list(graph.steps)
    wide = [place for place, name in enumerate(names) if graph.steps[name].kind == "pool"]
    if not wide or graph.output not in names[wide[-1] :]:
        raise ModelError("the network cannot run in blocks: it does not pool its pictures to a number a channel")
    after = set(names[wide[-1] :])
    for name in names[wide[-1] + 1 :]:
        step = graph.steps[name]
        if step.source not in after or (step.other is not None and step.other not in after):
            raise ModelError(f"the network cannot run in blocks: {name} reads pictures after the last pooling")
    return wide[-1] + 1


def _planned(
    graph: Graph, order: list[str], shapes: Mapping[str, tuple[int, ...]], tail: set[str]
) -> tuple[list[list[int]], int, int]:
    """Where every tensor lies, and the floats that one image needs; memory is used again when nothing reads it."""
    pads = {name: [0, 0, 0, 0] for name in order}
    until: dict[str, int] = dict.fromkeys(order, 0)
    for place, (name, step) in enumerate(graph.steps.items(), start=1):
        until[name] = max(until[name], place)
        for read in (step.source, step.other):
            if read is not None:
                until[read] = max(until[read], place)
        pads[step.source] = [max(one, two) for one, two in zip(pads[step.source], step.pads, strict=True)]
    buffers: list[list[int]] = []
    living: list[tuple[int, int, int]] = []  # first float, floats, last step that reads them
    room = kept = 0
    for place, name in enumerate(order):
        (channels, high, wide), (left, right, top, bottom) = shapes[name], pads[name]
        inner = channels if name == graph.input and channels < BLOCK else BLOCK
        blocks, rows, columns = -(-channels // inner), high + top + bottom, wide + left + right
        size = -(-blocks * rows * columns * inner // BLOCK) * BLOCK
        if name in tail:
            offset, kept = kept, kept + size
        else:
            living = [one for one in living if one[2] >= place]
            offset = _gap(living, size)
            living.append((offset, size, until[name]))
            room = max(room, offset + size)
        buffers.append([offset, blocks, inner, high, wide, top, left, rows, columns, int(name in tail)])
    return buffers, room, kept


def _gap(living: list[tuple[int, int, int]], size: int) -> int:
    """The first place at which so many floats are free."""
    offset = 0
    for first, floats, _ in sorted(living):
        if offset + size <= first:
            break
        offset = max(offset, first + floats)
    return offset


class _Store:
    """Weights and taps of all operations, one after another."""

    def __init__(self) -> None:
        self.data: list[Tensor] = [torch.zeros(BLOCK)]
        self.table: list[int] = []
        self.used = BLOCK
        self.kept = self.all = 0

    def row(self, step: Step, name: str, buffers: list[list[int]], places: Mapping[str, int]) -> list[int]:
        """The fields of an operation, its weights put away."""
        source, other = places[step.source], -1 if step.other is None else places[step.other]
        head = [_KINDS[step.kind], source, places[name], other, _ACTIVATIONS[step.act]]
        left, _, top, _ = step.pads
        if step.weight is None or step.bias is None:
            return [*head, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0]
        out, _, high, wide = step.weight.shape
        if high * wide > 1024:
            raise ModelError(f"the network cannot run in blocks: {name} has a kernel of {high} x {wide}")
        blocks, taps = -(-out // BLOCK), len(self.table)
        bias = torch.zeros(blocks * BLOCK).double()
        bias[:out] = step.bias
        if step.kind == "conv":
            _, among, inner, *_ = buffers[source]
            weight = torch.zeros(blocks * BLOCK, among * inner, high, wide).double()
            weight[:out, : step.weight.shape[1]] = step.weight
            stood = weight.reshape(blocks, BLOCK, among, inner, high, wide).permute(0, 4, 5, 2, 3, 1)
        else:
            stood = self._taps(step.weight.flatten(1), blocks)
        tail = [top, left, self._put(stood), self._put(bias), taps]
        return [*head, high, wide, *step.stride, *step.dilation, *tail]

    def _taps(self, weight: Tensor, blocks: int) -> Tensor:
        """The weights of taps at which some channel of a block has any, and where they are."""
        whole = torch.zeros(blocks * BLOCK, weight.shape[1]).double()
        whole[: len(weight)] = weight
        parts: list[Tensor] = []
        spans: list[int] = []
        places: list[int] = []
        for block in whole.reshape(blocks, BLOCK, -1):
            taps = block.any(dim=0).nonzero().flatten()
            spans += [len(places), len(taps)]
            places += taps.tolist()
            parts.append(block[:, taps].T.flatten())
        self.table += spans + places
        self.kept, self.all = self.kept + len(places), self.all + blocks * weight.shape[1]
        return torch.cat(parts)

    def _put(self, values: Tensor) -> int:
        first = self.used
        self.data.append(values.float().flatten())
        self.used += values.numel()
        return first

"""CostTable: measured milliseconds of every layer by its width and its taps."""

import copy
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.core.cut import Cut
from secateur.core.errors import InputError
from secateur.core.files import read_document, write_document
from secateur.core.seed import generator
from secateur.deprune.depthwise import Separable, zero_taps_
from secateur.runtime.blocked import BlockedNetwork, make_program

__all__ = ["CostTable", "layer_times", "measure_table"]

SHARES = (1.0, 0.75, 0.5, 0.25)  # of every site's channels, at which layers are timed
_ROUNDS = 30


@dataclass(frozen=True, kw_only=True)
class CostTable:
    """Times of layers on one machine, of one picture.

    layers: of each layer, rows of width (channels of its site), taps that its depthwise kernels keep (all of them where
    it has none) and milliseconds. other: milliseconds of what has no site.
    """

    engine: str
    threads: int
    other: float
    layers: Mapping[str, tuple[tuple[int, int, float], ...]]

    def ms(self, layer: str, width: int, taps: int) -> float:
        """Milliseconds of a layer: on lines between measured widths, and between measured numbers of taps.

        Raises InputError where the table does not know the layer.
        """
        if layer not in self.layers:
            raise InputError(f"the table has no times of layer {layer}: it was measured for another network")
        known = sorted({row[1] for row in self.layers[layer]})
        at = []
        for count in known:
            rows = sorted((row[0], row[2]) for row in self.layers[layer] if row[1] == count)
            at.append(float(np.interp(width, [row[0] for row in rows], [row[1] for row in rows])))
        if len(known) == 1:
            return at[0]
        slope = (at[-1] - at[0]) / (known[-1] - known[0])
        return max(at[0] + slope * (taps - known[0]), 0.0)

    def save(self, path: Path) -> None:
        """Write the table as JSON."""
        write_document(path, {"format": 1, **asdict(self)})

    @classmethod
    def load(cls, path: str | Path) -> "CostTable":
        """Read a table. Raises InputError on a file that is none."""
        held = read_document(Path(path))
        try:
            if held["format"] != 1:
                raise ValueError(f"format {held['format']!r} is unknown")
            layers = {str(name): tuple(_row(row) for row in rows) for name, rows in held["layers"].items()}
            if not all(layers.values()):
                raise ValueError("a layer has no times")
            engine, threads, other = str(held["engine"]), int(held["threads"]), _time(held["other"])
            return cls(engine=engine, threads=threads, other=other, layers=layers)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path} holds no table of layer times: {error!r}") from error


def _row(row: Any) -> tuple[int, int, float]:
    width, taps, spent = row
    if type(width) is not int or type(taps) is not int or min(width, taps) < 1:
        raise ValueError(f"a row should be width, taps and milliseconds, not {row!r}")
    return width, taps, _time(spent)


def _time(value: Any) -> float:
    if not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"milliseconds should be a number, not {value!r}")
    return float(value)


def measure_table(parts: Separable, example: Tensor, *, engine: str = "blocked", multiple: int = 16) -> CostTable:
    """Time every layer with all sites at a few widths, and with all and half of the taps.

    engine: blocked or torch. Raises ModelError where the network cannot run in blocks, InputError without a compiler.
    """
    structure, sites = parts.structure, parts.sites
    owner = {name: site for site in reversed(sites) for name in (*site.rows, *site.columns)}
    kernels = {own.name: own.taps for own in parts.kernels}
    rows: dict[str, list[tuple[int, int, float]]] = {}
    other = 0.0
    for share in SHARES:
        kept = {site.name: min(site.count, max(1, round(share * site.count / multiple)) * multiple) for site in sites}
        cut = Cut({site.name: tuple(range(kept[site.name])) for site in sites if kept[site.name] < site.count})
        small = structure.of(copy.deepcopy(structure.model))
        small.shrink_(cut)
        for halved in (False, True):
            if halved:
                zero_taps_(small.model, {name: taps // 2 / taps for name, taps in kernels.items()})
            times = layer_times(small.model, example, engine)
            for name, spent in times.items():
                if name in owner or name in kernels:
                    width = kept[owner[name].name] if name in owner else structure.layers[name].weight.shape[0]
                    taps = kernels.get(name, 1)
                    if not halved or name in kernels:
                        rows.setdefault(name, []).append((width, taps // 2 if halved else taps, spent))
                elif share == 1 and not halved:
                    other += spent
    unique = {name: tuple({row[:2]: row for row in own}.values()) for name, own in rows.items()}
    return CostTable(engine=engine, threads=torch.get_num_threads(), other=other, layers=unique)


def layer_times(model: nn.Module, example: Tensor, engine: str, batch: int = 1) -> dict[str, float]:
    """Median milliseconds of a batch of pictures in every layer, and under '' in everything else."""
    pixels = torch.rand((batch, *example.shape[1:]), generator=generator(0, "layer times"))
    if engine == "blocked":
        return BlockedNetwork(make_program(model, example)).profile(pixels, _ROUNDS)
    spent: dict[str, list[float]] = {}
    started: dict[str, float] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            handles.append(module.register_forward_pre_hook(partial(_start, started, name)))
            handles.append(module.register_forward_hook(partial(_stop, started, spent, name)))
    whole = []
    try:
        with torch.inference_mode():
            for _ in range(_ROUNDS + 1):
                begun = time.perf_counter()
                model.eval()(pixels)
                whole.append(1000 * (time.perf_counter() - begun))
    finally:
        for handle in handles:
            handle.remove()
    times = {name: float(np.median(own[1:])) for name, own in spent.items()}
    return times | {"": max(float(np.median(whole[1:])) - sum(times.values()), 0.0)}


def _start(started: dict[str, float], name: str, *_: object) -> None:
    started[name] = time.perf_counter()


def _stop(started: dict[str, float], spent: dict[str, list[float]], name: str, *_: object) -> None:
    spent.setdefault(name, []).append(1000 * (time.perf_counter() - started[name]))

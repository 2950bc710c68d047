"""A model class built with smaller sizes: what then becomes smaller is what belongs to the units that go."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import logging

from secateur.core.errors import ModelError
from secateur.core.files import write_document

__all__ = ["Part", "Place", "changed", "rebuilt", "with_fields"]

Place = tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """Which entries along one dimension of a tensor belong to a unit.

    runs: entries of a unit in every run of them; a fused query, key and value have three runs, one after another, and
    a plain matrix has one. What stands behind the last run belongs to no unit.
    """

    dim: int
    runs: tuple[int, ...] = (1,)

    def index(self, count: int) -> Tensor:
        """The entries of every unit `[count, entries]`."""
        starts = [count * sum(self.runs[:number]) for number in range(len(self.runs))]
        parts = [
            torch.arange(count * run).reshape(count, run) + start for start, run in zip(starts, self.runs, strict=True)
        ]
        return torch.cat(parts, dim=1)

    def cut(self, tensor: Tensor, kept: Sequence[int], count: int) -> Tensor:
        """What stays of a tensor whose other units go, in order."""
        if tensor.device.type == "meta":
            shape = list(tensor.shape)
            shape[self.dim] -= sum(self.runs) * (count - len(kept))
            return tensor.new_empty(shape)
        index = self.index(count)
        stays = torch.ones(tensor.shape[self.dim], dtype=torch.bool)
        stays[index.flatten()] = False
        stays[index[torch.tensor(list(kept), dtype=torch.long)].flatten()] = True
        return tensor.index_select(self.dim, stays.nonzero().flatten())


def with_fields(document: dict[str, Any], values: Mapping[Place, Any]) -> dict[str, Any]:
    """A config document with other values at some places; the one that is given stays as it is."""
    result = dict(document)
    for (*above, name), value in values.items():
        inner = result
        for key in above:
            inner[key] = dict(inner.get(key) or {})
            inner = inner[key]
        inner[name] = value
    return result


def rebuilt(document: dict[str, Any], model: PreTrainedModel) -> PreTrainedModel:
    """A language model of the same config class from another document, without weights."""
    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # a trial may fail, and its error is told elsewhere
    try:
        with TemporaryDirectory() as folder:  # only a file is read with all that configs may say, such as infinity
            write_document(Path(folder) / "config.json", document)
            config: Any = type(model.config).from_pretrained(folder)
        config.use_cache = False
        with init_empty_weights(include_buffers=False):
            built: PreTrainedModel = type(model)._from_config(config)
        built.tie_weights()
    finally:
        logging.set_verbosity(level)
    return built.eval().requires_grad_(False)


def changed(model: PreTrainedModel, built: PreTrainedModel, gone: int) -> dict[str, tuple[int, int]]:
    """Every tensor that became smaller where `gone` units went: along which dimension, and entries a unit.

    Raises ModelError where it changed in another way than units going.
    """
    dense, small = model.state_dict(), built.state_dict()
    found: dict[str, tuple[int, int]] = {}
    for name in dense:
        if name not in small:
            raise ModelError(f"{name} is no more in the smaller model")
        before, after = dense[name].shape, small[name].shape
        if before == after:
            continue
        dims = [dim for dim in range(len(before)) if len(before) == len(after) and before[dim] != after[dim]]
        size, rest = divmod(before[dims[0]] - after[dims[0]], gone) if len(dims) == 1 else (0, 1)
        if rest or size < 1:
            raise ModelError(f"{name} is {[*before]}, and becomes {[*after]}")
        found[name] = dims[0], size
    return found

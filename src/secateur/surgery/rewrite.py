"""Rewrite: stored tensors of an inferred model whose parameters were changed or cut, a group of them at a time."""

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from secateur.core.errors import ModelError
from secateur.infer.names import Group
from secateur.storage.folder import Edits
from secateur.storage.open_model import OpenModel
from secateur.storage.shards import TensorInfo

__all__ = ["Rewrite"]


class Rewrite:
    """What is written of a checkpoint where some of a model's parameters and buffers are cut.

    names: those that are, by the model's names. cut: gives what stays of one; of a tensor on the meta device, its
    shape. solved: what a run made of a parameter before it is cut, or None.
    """

    def __init__(
        self,
        opened: OpenModel,
        names: Collection[str],
        cut: Callable[[str, Tensor], Tensor],
        solved: Callable[[str], Tensor | None] = lambda name: None,
    ) -> None:
        """Nothing is read yet. Raises ModelError for a model of the table, which is cut by its sites."""
        if opened.names is None:
            raise ModelError(f"{type(opened.structure.model).__name__} is cut by its row of the table")
        self._opened = opened
        self._stored = opened.names
        self._names = set(names)
        self._cut = cut
        self._solved = solved
        self._made: tuple[Group, dict[str, Tensor]] | None = None
        self._shapes: dict[str, dict[str, Tensor]] = {}

    def edits(self, dtype: torch.dtype | None = None) -> Edits:
        """What is written otherwise than the checkpoint has it; dtype: of all floating-point tensors."""
        return Edits(tensor=self._tensor, info=self._info, name=self._name, order=self._stored.order, dtype=dtype)

    def _name(self, stored: str) -> str | None:
        """The same name, or None where nothing is left to hold."""
        group = self._stored.group_of(stored)
        return stored if group is None or stored in self._shaped(group) else None

    def _info(self, stored: str) -> TensorInfo:
        group, own = self._stored.group_of(stored), self._opened.checkpoint.info(stored)
        return own if group is None else (own[0], tuple(self._shaped(group)[stored].shape))

    def _tensor(self, stored: str) -> Tensor | None:
        group = self._stored.group_of(stored)
        if group is None:
            return None
        if self._made is None or self._made[0] is not group:
            solved = {name: self._first(name) for name in group.targets}
            if not self._names.intersection(group.targets) and all(value is None for value in solved.values()):
                return None
            dense = self._stored.read(group, self._opened.checkpoint.read)
            values = {name: dense[name] if value is None else value for name, value in solved.items()}
            self._made = group, self._written(group, values)
        return self._made[1][stored]

    def _first(self, name: str) -> Tensor | None:
        made = (self._solved(alias) for alias in self._opened.aliases(name))
        return next((value for value in made if value is not None), None)

    def _shaped(self, group: Group) -> dict[str, Tensor]:
        if not self._names.intersection(group.targets):
            return {stored: self._empty(stored) for stored in group.sources}
        if group.first not in self._shapes:
            empty = {name: torch.empty(shape, device="meta") for name, shape in group.targets.items()}
            self._shapes[group.first] = self._written(group, empty)
        return self._shapes[group.first]

    def _empty(self, stored: str) -> Tensor:
        return torch.empty(self._opened.checkpoint.info(stored)[1], device="meta")

    def _written(self, group: Group, values: dict[str, Tensor]) -> dict[str, Tensor]:
        own = {name: self._cut(name, value) if name in self._names else value for name, value in values.items()}
        return self._stored.write(group, own, fewer=True)

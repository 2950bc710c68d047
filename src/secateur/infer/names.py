"""Names on disk: which stored tensors a parameter is made of, by transformers' own conversion mapping, both ways."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
    revert_weight_conversion,
)

from secateur.core.errors import ModelError

__all__ = ["Group", "StoredNames"]

_Info = tuple[torch.dtype, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Group:
    """Stored tensors that become parameters together: two gates a fused one, a tensor for every expert a 3-D one.

    sources: stored names, each with the pattern it was known by. targets: shapes by the model's names.
    """

    first: str
    sources: Mapping[str, str]
    targets: Mapping[str, tuple[int, ...]]
    transform: Any

    @property
    def renamed(self) -> bool:
        """Whether it is one tensor whose values are stored as they are used."""
        return isinstance(self.transform, WeightRenaming)


class StoredNames:
    """Every parameter and buffer of a model as groups of a checkpoint's tensors, from its headers alone."""

    def __init__(self, model: PreTrainedModel, infos: Mapping[str, _Info]) -> None:
        """Match names as transformers does when it loads. Raises ModelError where a group cannot be converted."""
        self._model = model
        self._groups: dict[str, Group] = {}  # by the model's name
        self._of: dict[str, Group] = {}  # by the stored name
        mapping = get_model_conversion_mapping(model)
        self._places: dict[str, int] = {}
        for number, group in enumerate(self._grouped(mapping, infos)):
            self._places |= dict.fromkeys(group.sources, number)
            self._of |= dict.fromkeys(group.sources, group)
            self._groups |= dict.fromkeys(group.targets, group)
        # What saving reverts is what loading used.
        any_model: Any = model
        any_model._weight_conversions = [transform for transform in mapping if transform.was_used()]

    def group(self, name: str) -> Group | None:
        """What a parameter or buffer is made of, by the model's name."""
        return self._groups.get(name)

    def group_of(self, stored: str) -> Group | None:
        """The group that a stored tensor belongs to; None where the model has no place for it."""
        return self._of.get(stored)

    def order(self, stored: str) -> int:
        """A key that puts the tensors of one group side by side."""
        return self._places.get(stored, -1)

    def read(self, group: Group, read: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """The group's parameters by the model's names; `read` gives a stored tensor."""
        transform = copy.deepcopy(group.transform)
        for stored, pattern in group.sources.items():
            transform.add_tensor(group.first, stored, pattern, read(stored))
        made = transform.convert(group.first, model=self._model, config=self._model.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}

    def write(self, group: Group, tensors: Mapping[str, Tensor], *, fewer: bool = False) -> dict[str, Tensor]:
        """Stored tensors of a group's parameters. Raises ModelError where they come out under other names.

        fewer: the parameters are smaller, so some of the names may have nothing to hold.
        """
        if group.renamed:
            (stored,) = group.sources
            return {stored: next(iter(tensors.values()))}
        made: dict[str, Tensor] = revert_weight_conversion(self._model, dict(tensors))
        found = {stored: made.get(stored, made.get(self._prefixed(stored))) for stored in group.sources}
        given = [stored for stored, value in found.items() if value is not None]
        missing = [stored for stored, value in found.items() if value is None and not fewer]
        if missing or len(made) != len(given):
            raise ModelError(
                f"{group.first} is stored as {missing[0] if missing else next(iter(found))!r} in a layout that "
                "transformers reads and does not write: save the model anew with save_pretrained, and prune that"
            )
        return {stored: value.contiguous() for stored, value in found.items() if value is not None}

    def _prefixed(self, stored: str) -> str:
        """A stored name with the body's prefix, which checkpoints of the body alone lack."""
        return f"{self._model.base_model_prefix}.{stored}"

    def _grouped(self, mapping: list[Any], infos: Mapping[str, _Info]) -> list[Group]:
        renamings = [each for each in mapping if isinstance(each, WeightRenaming)]
        converters = [each for each in mapping if isinstance(each, WeightConverter)]
        by_pattern = {pattern: each for each in converters for pattern in each.source_patterns}
        places = self._model.state_dict()
        prefix = self._model.base_model_prefix
        parts: dict[str, tuple[Any, dict[str, str]]] = {}
        for stored in sorted(infos, key=dot_natural_key):
            name, pattern = rename_source_key(stored, renamings, converters, prefix, places)
            if name not in places and stored in places:
                name, pattern = rename_source_key(stored, [], [], prefix, places)
            if name not in places:
                continue
            kept = WeightRenaming(stored, name) if pattern is None else by_pattern[pattern]
            parts.setdefault(name, (kept, {}))[1][stored] = stored if pattern is None else pattern
        return [self._group(name, transform, sources, infos) for name, (transform, sources) in parts.items()]

    def _group(self, name: str, transform: Any, sources: dict[str, str], infos: Mapping[str, _Info]) -> Group:
        if isinstance(transform, WeightRenaming):
            stored = next(reversed(sources))  # the last of several names is the one that loading keeps
            return Group(name, {stored: stored}, {name: infos[stored][1]}, WeightRenaming(stored, name))
        group = Group(name, sources, {}, transform)

        def shaped(stored: str) -> Tensor:
            dtype, shape = infos[stored]
            return torch.empty(shape, dtype=dtype, device="meta")

        try:
            made = self.read(group, shaped)
        except Exception as error:  # shapes that do not fit raise many kinds
            raise ModelError(f"{name} cannot be made of {next(iter(sources))!r} and others: {error}") from error
        return Group(name, sources, {target: tuple(value.shape) for target, value in made.items()}, transform)

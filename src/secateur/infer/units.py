"""Units of an inferred decoder: a config field is made smaller, and what its class then builds smaller is the unit."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.adapt.block import Block
from secateur.adapt.layer import Layer
from secateur.adapt.site import Site
from secateur.adapt.structure import Structure
from secateur.core.errors import InputError, ModelError, SecateurError, last_line
from secateur.core.seed import generator
from secateur.infer.agree import agrees
from secateur.infer.blocks import reads_pictures
from secateur.infer.smaller import Part, Place, changed, rebuilt, with_fields

__all__ = ["Unit", "find_units", "pruned_part", "unit_sites", "units_of"]

_FFN = re.compile(r".*(intermediate|ffn|ff_dim|d_ff|dff|dim_ff|inner|feed_forward|mlp_hidden).*")
_STEP = 8  # channels that go in a trial, at least: some classes want round widths


@dataclass(frozen=True, eq=False)
class Unit:
    """One kind of unit: the config fields that count it, and the sites it has in the blocks.

    values: every field's value for so many units left. parts: which entries of which tensor belong to a unit of which
    site; a 3-D tensor has a site for every matrix.
    """

    kind: str
    count: int
    fields: Mapping[Place, tuple[int, int]]  # value = first * units + second
    parts: Mapping[str, tuple[Part, tuple[str, ...]]]
    sites: tuple[tuple[str, Site], ...]  # with the name of their block

    def values(self, kept: int) -> dict[Place, int]:
        """What the config's fields are with so many units."""
        return {place: each * kept + fixed for place, (each, fixed) in self.fields.items()}

    def cut(self, name: str, value: Tensor, kept: Mapping[str, Sequence[int]]) -> Tensor:
        """What stays of a tensor; kept: units by site."""
        part, sites = self.parts[name]
        if len(sites) == 1:
            return part.cut(value, kept[sites[0]], self.count)
        inner = replace(part, dim=part.dim - 1)
        return torch.stack([inner.cut(own, kept[site], self.count) for own, site in zip(value, sites, strict=True)])


def find_units(model: PreTrainedModel, blocks: Sequence[Block], unit: str) -> list[Unit]:
    """Units that whole rows and columns hold, checked by removing some of them: heads as `unit` says, then channels.

    unit: auto, kv_groups, heads or none. Raises ModelError, with the reason, where nothing can be cut so.
    """
    if unit not in ("auto", "kv_groups", "heads", "none"):
        raise InputError(f"unit {unit!r} is unknown: use auto, kv_groups, heads or none")
    reasons: list[str] = []
    found = [] if unit == "none" else _first(model, blocks, _heads(model, unit, reasons), reasons)
    if unit in ("kv_groups", "heads") and not found:
        raise ModelError(f"{_name(model)} cannot lose heads: {_said(reasons)}; use --pattern channels")
    for candidate in _channels(model):
        found += _first(model, blocks, candidate, reasons)
    if not found:
        raise ModelError(
            f"{_name(model)} has no units that can be removed: {_said(reasons)}; single weights and n:m can be pruned"
        )
    return found


def units_of(structure: Structure, unit: str) -> list[Unit]:
    """The units of an inferred structure, found once."""
    key = f"units {unit}"
    if key not in structure.memo:
        structure.memo[key] = find_units(structure.model, structure.blocks, unit)
    units: list[Unit] = structure.memo[key]
    return units


def unit_sites(structure: Structure, unit: str) -> list[tuple[str, Site]]:
    """The sites of those units, each with the name of its block."""
    return [pair for found in units_of(structure, unit) for pair in found.sites]


def _name(model: PreTrainedModel) -> str:
    return type(model).__name__


def _said(reasons: Sequence[str]) -> str:
    """The reasons, each once; the first two say enough."""
    return ", and ".join(list(dict.fromkeys(reasons))[:2]) or "its config counts neither heads nor channels"


@dataclass(frozen=True)
class _Knob:
    """Fields of a config that count one kind of unit, and how many there are."""

    kind: str
    count: int
    gone: int
    fields: Mapping[Place, tuple[int, int]]


def pruned_part(model: PreTrainedModel) -> tuple[Place, Any]:
    """Where the fields of the part that is pruned stand, and that part's config."""
    config = model.config
    seen = reads_pictures(model) and "vision_config" in config.sub_configs
    text = config.vision_config if seen else config.get_text_config(decoder=True)
    place = next((name for name in config.sub_configs if _value(config, name) is text), None)
    return () if text is config or place is None else (place,), text


def _value(config: Any, name: str) -> Any:
    """A field's value; None where there is none, or where it differs by layer."""
    try:
        return getattr(config, name, None)
    except Exception:  # transformers' own kind of error for fields that differ by layer
        return None


def _heads(model: PreTrainedModel, unit: str, reasons: list[str]) -> list[_Knob]:
    above, text = pruned_part(model)
    heads = _value(text, "num_attention_heads")
    if type(heads) is not int or heads < 2:
        return []
    own = _value(text, "num_key_value_heads")
    groups = own if type(own) is int and 0 < own <= heads and heads % own == 0 else heads
    width = _value(text, "head_dim")
    names = {name: text.attribute_map.get(name, name) for name in ("num_attention_heads", "num_key_value_heads")}
    fields: dict[Place, tuple[int, int]] = {}
    if groups == 1 or unit == "heads":
        if groups not in (1, heads):
            reasons.append(f"its {heads} query heads share {groups} key-value heads (kv_groups removes both)")
            return []
        kind, count = "heads", heads
        fields[*above, names["num_attention_heads"]] = (1, 0)
        if groups == heads and own is not None:
            fields[*above, names["num_key_value_heads"]] = (1, 0)
    else:
        kind, count = "kv_groups", groups
        fields[*above, names["num_attention_heads"]] = (heads // groups, 0)
        if own is not None:
            fields[*above, names["num_key_value_heads"]] = (1, 0)
    hidden = getattr(text, "hidden_size", 0)
    fixed = width if type(width) is int else hidden // heads
    return [_Knob(kind, count, 1, {**fields, (*above, text.attribute_map.get("head_dim", "head_dim")): (0, fixed)})]


def _channels(model: PreTrainedModel) -> Iterator[list[_Knob]]:
    """Fields that may count channels, and where those of a gate and its partner are counted together."""
    above, text = pruned_part(model)
    for name, value in text.to_dict().items():
        if not _FFN.fullmatch(name) or name in text.attribute_map:
            continue
        if value is None:
            value = 4 * getattr(text, "hidden_size", 0)  # what classes take where the field says nothing
        if type(value) is int and value > _STEP:
            gone = max(_STEP, value // 4 // _STEP * _STEP)
            pairs = [_Knob("ffn", value // 2, gone, {(*above, name): (2, 0)})] if value > 4 * _STEP else []
            yield [_Knob("ffn", value, gone, {(*above, name): (1, 0)}), *pairs]


def _first(model: PreTrainedModel, blocks: Sequence[Block], knobs: Sequence[_Knob], reasons: list[str]) -> list[Unit]:
    """The first kind of unit that can be removed; why the others cannot is added to the reasons."""
    for knob in knobs:
        try:
            unit = _unit(model, blocks, knob)
        except SecateurError as error:
            reasons.append(str(error))
            continue
        except Exception as error:  # strict configs and classes raise many kinds
            said = last_line(error).strip()[:200].rstrip(".")
            what = "channels" if knob.kind == "ffn" else "heads"
            reasons.append(f"its class fails with fewer {what} ({type(error).__name__}: {said})")
            continue
        if unit is not None:
            return [unit]
        fields = ", ".join(".".join(place) for place, (each, _) in knob.fields.items() if each)
        reasons.append(f"no tensor of it becomes smaller with a smaller {fields}")
    return []


def _unit(model: PreTrainedModel, blocks: Sequence[Block], knob: _Knob) -> Unit | None:
    """The unit of some fields, laid out as removing some of them shows; None where no tensor depends on them."""
    draft = Unit(knob.kind, knob.count, knob.fields, {}, ())
    left = knob.count - knob.gone
    small = rebuilt(with_fields(model.config.to_dict(), draft.values(left)), model)
    sizes = changed(model, small, knob.gone)
    if not sizes:
        return None
    places = _Places(model, blocks, knob)
    groups = places.grouped(sizes)
    stream = generator(0, "units", knob.count)
    why = ""
    for layout in _layouts(sizes, groups, knob):
        unit = replace(draft, **places.sites(groups, layout))
        kept = {
            site.name: tuple(torch.randperm(knob.count, generator=stream)[:left].sort().values.tolist())
            for _, site in unit.sites
        }
        why = agrees(model, small, blocks, unit.sites, _cutting(unit, kept), kept)
        if not why:
            return unit
    state = model.state_dict()
    norms = [name for name in sizes if state[name].dim() == 1 and not name.endswith("bias")]
    raise ModelError(why + (f": {norms[0]} spans all of them" if norms else ""))


def _cutting(unit: Unit, kept: Mapping[str, Sequence[int]]) -> Callable[[str, Tensor], Tensor]:
    return lambda name, value: unit.cut(name, value, kept) if name in unit.parts else value


Sizes = Mapping[str, tuple[int, int]]
_Groups = Mapping[str, list[str]]


def _layouts(sizes: Sizes, groups: _Groups, knob: _Knob) -> Iterator[dict[str, Part]]:
    """Ways in which tensors may hold a unit's entries: side by side, or in two or three runs one after another."""
    leaves: dict[str, list[tuple[int, ...]]] = {}
    for name, (_, size) in sizes.items():
        leaves.setdefault(_leaf(name), _runs(size, knob))
    names = [leaf for leaf, ways in leaves.items() if len(ways) > 1]
    for chosen in list(product(*(leaves[leaf] for leaf in names)))[:32]:
        own = dict(zip(names, chosen, strict=True))
        yield {
            # A solver removes columns that stand side by side.
            name: Part(dim, (size,) if name in groups else own.get(_leaf(name), (size,)))
            for name, (dim, size) in sizes.items()
        }


def _leaf(name: str) -> str:
    """A tensor's name without its place in the model; a bias is laid out as its weight."""
    owner = name.removesuffix(".weight").removesuffix(".bias").removesuffix("_bias")
    return owner.rpartition(".")[2]


def _runs(size: int, knob: _Knob) -> list[tuple[int, ...]]:
    ways: list[tuple[int, ...]] = [(size,)]
    if knob.kind == "ffn":
        return ways + ([(size // 2, size // 2)] if size % 2 == 0 else [])
    width = next((fixed for each, fixed in knob.fields.values() if each == 0), 0)
    shared = max(each for each, _ in knob.fields.values())
    if width and size == (shared + 2) * width:
        return [(shared * width, width, width), *ways]
    return ways + ([(size // 2, size // 2)] if width and size == 2 * width and shared != 2 else [])


class _Places:
    """The sites that tensors which become smaller make up, and their layers."""

    def __init__(self, model: PreTrainedModel, blocks: Sequence[Block], knob: _Knob) -> None:
        self._model = model
        self._knob = knob
        self._layers: dict[str, list[Layer]] = {}
        self._block: dict[str, str] = {}
        for block in blocks:
            for layer in block.layers:
                self._layers.setdefault(layer.tensor, []).append(layer)
                self._block[layer.tensor] = block.name
        for layers in self._layers.values():
            layers.sort(key=lambda layer: layer.index or 0)  # stages come in the order in which experts were reached

    def grouped(self, sizes: Sizes) -> dict[str, list[str]]:
        """Tensors by the module whose last matrix reads the units.

        Raises ModelError where none does, or a tensor belongs to none.
        """
        readers = [name for name, (dim, _) in sizes.items() if self._reads(name, dim)]
        if not readers:
            raise ModelError(f"no matrix of a block reads {self._knob.kind} alone, though {next(iter(sizes))} has them")
        groups: dict[str, list[str]] = {name: [name] for name in readers}
        if len({self._around(name) for name in readers}) < len(readers):
            raise ModelError(f"several matrices read the {self._knob.kind} of {self._around(readers[0])}")
        for name in sizes:
            if name not in groups:
                nearest = max(readers, key=lambda reader: _shared(reader, name))
                if not name.startswith(self._around(nearest) + ".") and _shared(nearest, name) < _depth(nearest) - 3:
                    raise ModelError(f"{name} has {self._knob.kind} too, and no matrix near it reads them")
                groups[nearest].append(name)
        return groups

    def _reads(self, name: str, dim: int) -> bool:
        layers = self._layers.get(name)
        if not layers:
            return False
        value = self._model.get_parameter(name)
        columns = value.dim() - (2 if layers[0].transposed else 1)
        return dim == columns

    @staticmethod
    def _around(name: str) -> str:
        """The module that holds a matrix's module, or the parameter's own where it is a bare one."""
        parts = name.split(".")
        return ".".join(parts[:-2] if parts[-1] == "weight" else parts[:-1])

    def sites(self, groups: _Groups, layout: Mapping[str, Part]) -> dict[str, Any]:
        """Sites and parts of a unit in this layout."""
        parts: dict[str, tuple[Part, tuple[str, ...]]] = {}
        sites: list[tuple[str, Site]] = []
        for reader, names in groups.items():
            layers = self._layers[reader]
            base = f"{self._around(reader)}.{self._knob.kind}"
            stacked = layers[0].index is not None
            own = [f"{base}.{layer.index}" if stacked else base for layer in layers]
            parts |= {name: (layout[name], tuple(own)) for name in names}
            for layer, site in zip(layers, own, strict=True):
                sites.append((self._block[reader], self._site(site, layer, names, layout)))
        return {"parts": parts, "sites": tuple(sites)}

    def _site(self, name: str, reader: Layer, names: Sequence[str], layout: Mapping[str, Part]) -> Site:
        count = self._knob.count
        rows, weights = dict[str, Tensor](), 0
        for tensor in names:
            value = self._model.state_dict(keep_vars=True)[tensor]
            index = layout[tensor].index(count)
            whole = value.numel() // value.shape[layout[tensor].dim] * index.shape[1]
            weights += whole // (len(value) if reader.index is not None else 1)
            layer = next((own for own in self._layers.get(tensor, ()) if own.index == reader.index), None)
            if layer is not None and tensor != reader.tensor:
                rows[layer.name] = index
        columns = {reader.name: layout[reader.tensor].index(count)}
        return Site(name, self._knob.kind, count, weights, rows, columns)


def _shared(one: str, other: str) -> int:
    """How many parts two names have in common at their start."""
    pairs = zip(one.split("."), other.split("."), strict=False)
    return next((place for place, (mine, its) in enumerate(pairs) if mine != its), min(_depth(one), _depth(other)))


def _depth(name: str) -> int:
    return len(name.split("."))

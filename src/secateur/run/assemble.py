"""Write a finished run as a model: replaced tensors, or really smaller ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.adapt.decoder import shrunk_config
from secateur.adapt.layer import Layer
from secateur.core.cut import Cut
from secateur.core.errors import ModelError
from secateur.core.files import read_document, storage_errors, write_document
from secateur.core.mask import save_packed, unpack
from secateur.infer.smaller import rebuilt, with_fields
from secateur.infer.units import units_of
from secateur.run.plan import Plan
from secateur.run.result import LayerReport, Made
from secateur.storage.folder import Edits, copy_companions, with_dtype, write_pruned
from secateur.storage.open_model import OpenModel
from secateur.storage.run_folder import FinishedBlock, RunFolder
from secateur.storage.shards import TensorInfo
from secateur.surgery.rewrite import Rewrite
from secateur.surgery.shrink import cut_sizes, cut_slices, sliced

__all__ = ["assemble"]


class _Finished:
    """The run folder's blocks, one held at a time."""

    def __init__(self, folder: RunFolder, opened: OpenModel) -> None:
        self.folder = folder
        self.reports: list[list[dict[str, Any]]] = []
        self._opened = opened
        self._owner: dict[str, int] = {}
        self._stacked: dict[str, list[Layer]] = {}
        layers = opened.structure.layers if opened.names is not None else []
        for index in range(len(opened.structure.blocks)):
            block = folder.load_block(index)
            self.reports.append(block.reports)
            self._owner |= dict.fromkeys(block.weights, index)
        for layer in layers:
            if layer.name in self._owner:
                self._stacked.setdefault(layer.tensor, []).append(layer)
        self._held: tuple[int, FinishedBlock] | None = None

    def block(self, index: int) -> FinishedBlock:
        if self._held is None or self._held[0] != index:
            self._held = (index, self.folder.load_block(index))
        return self._held[1]

    def tensor(self, parameter: str) -> Tensor | None:
        """What the run made of a parameter, or None where it is as it was."""
        if self._opened.names is not None:
            return self._whole(parameter)
        layer, _, leaf = parameter.rpartition(".")
        if layer not in self._owner or leaf not in ("weight", "bias"):
            return None
        block = self.block(self._owner[layer])
        return block.weights[layer] if leaf == "weight" else block.biases.get(layer)

    def _whole(self, parameter: str) -> Tensor | None:
        """A parameter of an inferred model, with every matrix that was solved in its place."""
        layers = self._stacked.get(parameter, [])
        if not layers:
            owner, _, leaf = parameter.rpartition(".")
            known = leaf == "bias" and owner in self._owner
            return self.block(self._owner[owner]).biases.get(owner) if known else None
        block = self.block(self._owner[layers[0].name])
        if layers[0].index is None:
            return block.weights[layers[0].name]
        whole = self._opened.parameter(parameter).clone()
        solved = block.weights[layers[0].name].dtype
        whole = whole.to(solved)
        for layer in layers:
            whole[layer.index] = block.weights[layer.name]
        return whole

    def new_biases(self, opened: OpenModel) -> dict[str, Tensor]:
        """Biases `[out]` of every layer without one, zero unless solved, if any layer got its first."""
        layers = [layer for layer in opened.structure.layers if f"{layer.name}.bias" not in opened]
        if opened.names is not None:
            return {}  # no field of an unknown config would let a new bias be read
        solved = {layer.name: self.tensor(f"{layer.name}.bias") for layer in layers}
        if all(bias is None for bias in solved.values()):
            return {}
        found: dict[str, Tensor] = {}
        for layer in layers:
            bias, dtype = solved[layer.name], opened.dtype_of(f"{layer.name}.weight")
            found[f"{layer.name}.bias"] = torch.zeros(layer.weight.shape[0], dtype=dtype) if bias is None else bias
        return found

    def packed(self) -> dict[str, Tensor]:
        return {name: bits for index in range(len(self.reports)) for name, bits in self.block(index).masks.items()}


def assemble(plan: Plan, opened: OpenModel, folder: RunFolder, resumed: int = 0) -> Made:
    """Write the finished model inside the run folder, tensor by tensor.

    Where the plan has sites, whole units go: matrices are sliced, the config tells the new sizes,
    and cut.json says what was kept. Else masks are saved beside the weights.
    """
    finished = _Finished(folder, opened)
    target = folder.new_model()
    with storage_errors(target):
        copy_companions(opened.source.folder, target, code=opened.source.trusted)
        if plan.targets.sites:
            _write_shrunk(plan, opened, finished, target)
        else:
            _write_masked(opened, finished, target, plan.saved)
    layers = [LayerReport(**report) for reports in finished.reports for report in reports]
    return Made(layers, plan.targets.removed(layers), resumed)


def _write_masked(opened: OpenModel, finished: _Finished, target: Path, dtype: torch.dtype | None) -> None:
    added = finished.new_biases(opened)
    if opened.names is None:
        edits = Edits(tensor=lambda name: finished.tensor(opened.model_name(name)), added=added, dtype=dtype)
    else:
        edits = Rewrite(opened, (), lambda name, value: value, finished.tensor).edits(dtype)
    write_pruned(opened.checkpoint, target, edits)
    if added or dtype:
        write_document(target / "config.json", _document(opened, target, added, dtype))
    packed = finished.packed()
    save_packed(target / "masks.safetensors", packed, {name: opened.structure.shape(name) for name in packed})


def _write_shrunk(plan: Plan, opened: OpenModel, finished: _Finished, target: Path) -> None:
    structure, sites, dtype = opened.structure, plan.targets.sites, plan.saved
    packed = finished.packed()
    kept: dict[str, tuple[int, ...]] = {
        site.name: site.pattern.units(unpack(packed[site.layer], structure.shape(site.layer)))
        for site in sites
        if site.layer in packed
    }
    cut = Cut(kept)
    if structure.kind.inferred:
        _write_units(plan, opened, finished, target, cut)
        return
    slices = cut_slices(sites, cut)
    transposed = {layer.name for layer in structure.layers if layer.transposed}

    def changed(name: str) -> Tensor | None:
        layer, parameter = _layer(opened, name), opened.model_name(name)
        solved = finished.tensor(parameter)
        if layer not in slices:
            return solved
        tensor = opened.checkpoint.read(name) if solved is None else solved
        if layer in transposed and tensor.dim() == 2:
            return sliced(tensor.T, slices, parameter).T.contiguous()
        return sliced(tensor, slices, parameter)

    def info(name: str) -> TensorInfo:
        dtype, shape = opened.checkpoint.info(name)
        layer = _layer(opened, name)
        if layer not in slices:
            return dtype, shape
        if len(shape) == 1:
            return dtype, slices[layer].shape(shape[0], 1)[:1]
        turned = layer in transposed
        rows, columns = slices[layer].shape(*(shape[::-1] if turned else shape))
        return dtype, (columns, rows) if turned else (rows, columns)

    added = {name: sliced(bias, slices, name) for name, bias in finished.new_biases(opened).items()}
    write_pruned(opened.checkpoint, target, Edits(tensor=changed, info=info, added=added, dtype=dtype))
    sizes = cut_sizes(sites, cut, structure.sizes)
    document = _document(opened, target, added, dtype)
    write_document(target / "config.json", shrunk_config(document, structure.model.config, sizes))
    cut.save(target / "cut.json")


def _write_units(plan: Plan, opened: OpenModel, finished: _Finished, target: Path, cut: Cut) -> None:
    """The same of an inferred model, whose config has one size for all blocks. Raises ModelError where none fits."""
    structure = opened.structure
    units = units_of(structure, plan.recipe.unit() or "none")
    kept = {site.name: cut.kept.get(site.name, tuple(range(site.count))) for site in plan.targets.sites}
    values = {key: value for unit in units for key, value in unit.values(len(kept[unit.sites[0][1].name])).items()}
    document = with_dtype(with_fields(read_document(target / "config.json"), values), plan.saved)

    def smaller(name: str, value: Tensor) -> Tensor:
        for unit in units:
            value = unit.cut(name, value, kept) if name in unit.parts else value
        return value

    dense = structure.model.state_dict()
    for name, wanted in rebuilt(document, structure.model).state_dict().items():
        found = smaller(name, dense[name].to("meta")).shape
        if found != wanted.shape:
            raise ModelError(f"{name} would be {[*found]}, and its class asks for {[*wanted.shape]}")
    names = {name for unit in units for name in unit.parts}
    write_pruned(opened.checkpoint, target, Rewrite(opened, names, smaller, finished.tensor).edits(plan.saved))
    write_document(target / "config.json", document)
    cut.save(target / "cut.json")


def _document(
    opened: OpenModel, target: Path, added: Mapping[str, Tensor], dtype: torch.dtype | None
) -> dict[str, Any]:
    """The config, with the family's switches on where biases were added, and the dtype that was asked for."""
    switches = opened.structure.bias_fields if added else ()
    return with_dtype(read_document(target / "config.json") | dict.fromkeys(switches, True), dtype)


def _layer(opened: OpenModel, stored: str) -> str:
    return opened.model_name(stored).rpartition(".")[0]

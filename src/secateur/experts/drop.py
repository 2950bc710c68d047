"""drop_experts: measure what every expert is worth in the dense model, and write a model without the others."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from secateur.calibrate.stream import Stream
from secateur.core.errors import CalibrationError, ModelError, RatioError
from secateur.core.files import read_document, storage_errors, write_document
from secateur.experts.dropping import DropExperts
from secateur.experts.smaller import Smaller, smaller_model
from secateur.experts.worth import Worth
from secateur.infer.experts import is_experts
from secateur.storage.folder import copy_companions, with_dtype, without_lost_code, write_pruned
from secateur.storage.open_model import OpenModel
from secateur.storage.run_folder import RunFolder
from secateur.surgery.rewrite import Rewrite

__all__ = ["DropTask", "Dropped", "check_experts", "drop_experts", "mixtures", "removed_weights"]

Progress = Callable[[int, int], None]


class DropTask(NamedTuple):
    """How experts are judged, the share that goes, and what weights are written as; None keeps the checkpoint's own."""

    method: DropExperts
    ratio: float
    dtype: torch.dtype | None = None


class Dropped(NamedTuple):
    """What was written: weights that went, the experts of every layer that stayed, and those no token reached."""

    weights: int
    kept: dict[str, list[int]]
    unreached: int


@dataclass(frozen=True)
class _Layer:
    """The experts of one layer: the name of their module, and the block it is in."""

    name: str
    module: nn.Module
    block: int

    @property
    def count(self) -> int:
        """How many experts."""
        module: Any = self.module
        return int(module.num_experts)


def mixtures(opened: OpenModel) -> list[_Layer]:
    """Every layer's experts. Raises ModelError where there are none behind transformers' common interface."""
    found = [
        _Layer(f"{block.name}.{name}" if name else block.name, module, block.number)
        for block in opened.structure.blocks
        for name, module in block.module.named_modules()
        if is_experts(module)
    ]
    model = type(opened.structure.model).__name__
    if not found:
        raise ModelError(
            f"{model} has no experts behind transformers' common interface (use_experts_implementation), so none can "
            "be removed; weights inside its experts can be pruned with any other method"
        )
    counts = sorted({layer.count for layer in found})
    if len(counts) > 1:
        raise ModelError(
            f"layers of {model} have {' and '.join(map(str, counts))} experts: one number for all is needed"
        )
    return found


def check_experts(opened: OpenModel, method: DropExperts, ratio: float) -> tuple[list[_Layer], int, Smaller]:
    """The experts of every layer, how many of each stay, and the class with so many; nothing is measured.

    Raises ModelError or RatioError where none can go, or the class cannot do with fewer.
    """
    layers = mixtures(opened)
    count = layers[0].count
    left = len(method.keep([0.0] * count, ratio, _groups(opened)[0]))
    document = read_document(opened.source.folder / "config.json")
    smaller = smaller_model(opened.structure.model, document, count, left)
    _check_tables(opened, count)
    return layers, left, smaller


def removed_weights(opened: OpenModel, smaller: Smaller) -> int:
    """How many weights a class with fewer experts does without."""
    dense, small = (dict(model.named_parameters()) for model in (opened.structure.model, smaller.model))
    return sum(dense[name].numel() - small[name].numel() for name in smaller.parts if name in dense)


@torch.no_grad()
def drop_experts(opened: OpenModel, folder: RunFolder, task: DropTask, stream: Stream, progress: Progress) -> Dropped:
    """Write the model without the experts of least worth into the run folder; experts.json tells all scores.

    Raises ModelError or RatioError where the class cannot do with fewer; where possible, before anything is measured.
    """
    method, ratio, dtype = task
    layers, left, smaller = check_experts(opened, method, ratio)
    count, (groups, usable) = layers[0].count, _groups(opened)
    worth = _measured(opened, layers, stream, progress)
    chosen = max(each.chosen for each in worth.values())
    if left < chosen:
        raise RatioError(
            f"ratio {ratio:g} leaves {left} of {count} experts, and every token is sent to {chosen}: ask for less"
        )
    if groups > 1 and usable * (left // groups) < chosen:
        raise RatioError(
            f"ratio {ratio:g} leaves {left // groups} experts in each of {groups} groups, a token may use "
            f"{usable} of the groups, and it is sent to {chosen} experts: ask for less"
        )
    scores = {name: method.scores(each) for name, each in worth.items()}
    kept = {name: method.keep(each, ratio, groups) for name, each in scores.items()}
    unreached = sum(int((each.tokens == 0).sum()) for each in worth.values())
    removed = _write(opened, folder, smaller, kept, dtype)
    tokens = {name: each.tokens.tolist() for name, each in worth.items()}
    told = {"by": method.by, "kept": kept, "scores": scores, "tokens": tokens, "experts": count}
    write_document(folder.model / "experts.json", told)
    return Dropped(removed, kept, unreached)


def _measured(opened: OpenModel, layers: Sequence[_Layer], stream: Stream, progress: Progress) -> dict[str, Worth]:
    worth = {layer.name: Worth(layer.count) for layer in layers}
    blocks = opened.structure.blocks
    with opened.loaded(opened.outside_blocks()):
        stream.embed()
    for block in blocks:
        progress(block.number, len(blocks))
        with opened.loaded(block.tensors()), ExitStack() as stack:
            for layer in layers:
                if layer.block == block.number:
                    stack.callback(worth[layer.name].watch(layer.module).remove)
            stream.put_out(block, stream.hidden)
    progress(len(blocks), len(blocks))
    if not all(each.seen for each in worth.values()):
        raise CalibrationError("no calibration token reached the experts of some layer: use more samples")
    for name, each in worth.items():
        if not (each.gated.isfinite().all() and each.norms.isfinite().all()):
            raise CalibrationError(f"outputs of experts at {name} hold NaN or inf: no expert can be judged by them")
    return worth


def _groups(opened: OpenModel) -> tuple[int, int]:
    """Groups of experts that a router first chooses among, 1 where it does not, and how many a token may use."""
    config: Any = opened.structure.model.config.get_text_config(decoder=True)
    groups = max(1, int(getattr(config, "n_group", None) or getattr(config, "num_expert_group", None) or 1))
    return groups, int(getattr(config, "topk_group", None) or groups)


def _check_tables(opened: OpenModel, count: int) -> None:
    """Refuse a router that looks experts up by token: its table names experts by number."""
    for name, value in opened.structure.model.state_dict().items():
        if not value.is_floating_point() and value.dim() == 2 and name in opened:
            table = opened.parameter(name)
            if table.numel() and 0 <= int(table.min()) and int(table.max()) < count:
                raise ModelError(f"{name} looks experts up by token, so none of them can be removed")


def _nearest(name: str, layers: Mapping[str, list[int]]) -> str:
    """The experts that a tensor of a router or of the experts themselves belongs to: those nearest in the tree."""
    parts = name.split(".")
    return max(layers, key=lambda layer: _common(parts, layer.split(".")))


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many parts two names have in common at their start."""
    for place, (mine, its) in enumerate(zip(one, other, strict=False)):
        if mine != its:
            return place
    return min(len(one), len(other))


def _write(
    opened: OpenModel, folder: RunFolder, smaller: Smaller, kept: dict[str, list[int]], dtype: torch.dtype | None
) -> int:
    """Write the smaller model; return how many weights went."""
    count = mixtures(opened)[0].count

    def cut(name: str, value: Tensor) -> Tensor:
        part = smaller.parts.get(name)
        return value if part is None else part.cut(value, kept[_nearest(name, kept)], count)

    rewrite = Rewrite(opened, set(smaller.parts), cut)
    target = folder.new_model()
    with storage_errors(target):
        copy_companions(opened.source.folder, target, code=opened.source.trusted)
        write_pruned(opened.checkpoint, target, rewrite.edits(dtype))
        document = without_lost_code(smaller.document, target)
        write_document(target / "config.json", with_dtype(document, dtype))
    return removed_weights(opened, smaller)

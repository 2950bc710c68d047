"""Remove whole blocks: measure their influence, renumber the rest, keep the config in step."""

from collections.abc import Callable, Sequence
from pathlib import Path

from secateur.calibrate.influence import Influence
from secateur.calibrate.stream import Stream
from secateur.calibrate.survey import survey
from secateur.calibrate.weights import Weights
from secateur.core.document import read_document, storage_errors, write_document
from secateur.export.hf import copy_companions, write_pruned
from secateur.run.checkpoint import RunFolder
from secateur.surgery.config import depth_config

__all__ = ["block_influence", "write_kept_blocks"]


def block_influence(stream: Stream, weights: Weights, progress: Callable[[int, int], None]) -> list[float]:
    """Every block's influence in the dense model, in one streamed forward pass."""
    found = survey(stream, weights, (), Influence, lambda view: view.watched, progress)
    return list(found.values())


def write_kept_blocks(
    weights: Weights, folder: RunFolder, source: Path, kept: Sequence[int], influence: Sequence[float]
) -> None:
    """Write the model without the other blocks; blocks.json tells which stayed and every influence."""
    prefix = f"{weights.adapter.family.blocks}."
    numbers = {str(old): str(new) for new, old in enumerate(kept)}

    def renamed(stored: str) -> str | None:
        name = weights.model_name(stored)
        if not name.startswith(prefix):
            return stored
        number, _, rest = name.removeprefix(prefix).partition(".")
        if number not in numbers:
            return None
        new = f"{prefix}{numbers[number]}.{rest}"
        return new if stored == name else new.removeprefix(weights.prefix)

    target = folder.path / "model"
    with storage_errors(target):
        target.mkdir(exist_ok=True)
        copy_companions(source, target)
        write_pruned(weights.checkpoint, target, lambda name: None, renamed=renamed)
        document = depth_config(read_document(target / "config.json"), kept, len(influence))
        write_document(target / "config.json", document)
        write_document(target / "blocks.json", {"kept": list(kept), "influence": list(influence)})

"""Remove whole blocks: measure their influence, renumber the rest, check that each still computes what it did."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch

from secateur.adapt.adapter import Adapter, Block
from secateur.adapt.source import Source, read_config, skeleton
from secateur.calibrate.influence import Influence
from secateur.calibrate.stream import Stream, StreamSettings
from secateur.calibrate.survey import survey
from secateur.core.errors import ModelError
from secateur.core.files import read_document, storage_errors, write_document
from secateur.core.shapes import TokenIds
from secateur.storage.folder import copy_companions, with_dtype, write_pruned
from secateur.storage.run_folder import RunFolder
from secateur.storage.shards import Checkpoint
from secateur.storage.weights import Weights
from secateur.surgery.config import depth_config
from secateur.surgery.verify import difference

__all__ = ["block_influence", "check_kept_blocks", "write_kept_blocks"]

_TOLERANCE = 1e-3  # of a block's largest output
_POSITIONS = ("layer_idx", "layer_id", "layer_number")  # attributes that may differ: where a block stands
_ONE = StreamSettings()
_WHY = "its class derives that from a block's position, so whole blocks cannot be removed; use --pattern heads+channels"
_PLAIN = (bool, int, float, str, type(None))


def block_influence(stream: Stream, weights: Weights, progress: Callable[[int, int], None]) -> list[float]:
    """Every block's influence in the dense model, in one streamed forward pass."""
    influence = survey(stream, weights, (), Influence, lambda view: view.watched, progress)
    return list(influence.values())


def write_kept_blocks(
    weights: Weights,
    folder: RunFolder,
    source: Source,
    kept: Sequence[int],
    influence: Sequence[float],
    dtype: torch.dtype | None = None,
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

    target = folder.new_model()
    with storage_errors(target):
        copy_companions(source.folder, target)
        write_pruned(weights.checkpoint, target, lambda name: None, renamed=renamed, dtype=dtype)
        document = depth_config(read_document(target / "config.json"), read_config(source), kept)
        write_document(target / "config.json", with_dtype(document, dtype))
        write_document(target / "blocks.json", {"kept": list(kept), "influence": list(influence)})


@torch.no_grad()
def check_kept_blocks(weights: Weights, source: Source, kept: Sequence[int], ids: TokenIds) -> None:
    """Compare every block of the written model with the dense block it was, on token ids `[1, length]`.

    Two blocks and one sample are held. Raises ModelError where a block computes something else at its new place, or
    would on other inputs: some classes derive settings from a block's number that no config can hold.
    """
    dense, small = weights.adapter, Adapter(skeleton(source))
    written = Weights(Checkpoint(source.folder), small, weights.dtype)
    before, after = dense.blocks(), small.blocks()
    with Stream(dense, ids, _ONE) as old_stream, Stream(small, ids, _ONE) as new_stream:
        for stream, held in ((old_stream, weights), (new_stream, written)):
            with held.loaded(held.outside_blocks()):
                stream.embed()
        for new, old in enumerate(kept):
            _check_settings(before[old], after[new])
            with ExitStack() as stack:
                stack.enter_context(weights.loaded(before[old].tensors()))
                stack.enter_context(written.loaded(after[new].tensors()))
                for dense_value, value in zip(
                    before[old].module.parameters(), after[new].module.parameters(), strict=True
                ):
                    dense_value.data = value.data  # what is compared is the computation, not how weights are stored
                old_stream.hidden[0] = new_stream.hidden[0]
                expected = old_stream.call(before[old], old, 0)
                got = new_stream.call(after[new], new, 0)
            if not (apart := difference(expected, got)) <= _TOLERANCE:
                raise ModelError(
                    f"{before[old].name} computes something else as {after[new].name} (off by {apart:.2g} of its "
                    f"largest output): {_WHY}"
                )
            new_stream.hidden[0] = got


def _check_settings(before: Block, after: Block) -> None:
    places = dict(after.module.named_modules())
    for name, module in before.module.named_modules():
        now = _settings(places[name])
        for key, value in _settings(module).items():
            if now.get(key) != value:
                raise ModelError(
                    f"{before.name}: {name}.{key} is {value!r} and would be {now.get(key)!r} as {after.name}: {_WHY}"
                )


def _settings(module: Any) -> dict[str, Any]:
    return {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, _PLAIN) and key not in _POSITIONS and not key.startswith("_")
    }

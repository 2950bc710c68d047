"""Remove whole blocks: measure their influence, renumber the rest, check that each still computes what it did."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch

from secateur.adapt.block import Block
from secateur.calibrate.influence import Influence
from secateur.calibrate.stream import Stream, StreamSettings
from secateur.calibrate.survey import BlockReader, survey
from secateur.core.errors import CalibrationError, ModelError
from secateur.core.files import read_document, storage_errors, write_document
from secateur.core.shapes import TokenIds
from secateur.infer.units import pruned_part
from secateur.run.allocate import open_stream
from secateur.run.plan import Plan
from secateur.run.result import Made
from secateur.run.targets import block_weights
from secateur.solve.shortgpt import ShortGPT
from secateur.storage.folder import Edits, copy_companions, with_dtype, write_pruned
from secateur.storage.open_model import OpenModel, open_model
from secateur.storage.run_folder import RunFolder
from secateur.storage.source import Source, read_config
from secateur.surgery.config import depth_config
from secateur.surgery.verify import difference

__all__ = ["block_influence", "check_kept_blocks", "drop_blocks", "write_kept_blocks"]

Progress = Callable[[int, int], None]

_TOLERANCE = 1e-3  # of a block's largest output
_POSITIONS = ("layer_idx", "layer_id", "layer_number")  # attributes that may differ: where a block stands
_ONE = StreamSettings()
_WHY = "its class derives that from a block's position, so whole blocks cannot be removed; use --pattern heads+channels"
_PLAIN = (bool, int, float, str, type(None))


def drop_blocks(
    plan: Plan, opened: OpenModel, folder: RunFolder, ids: TokenIds | None, *, resume: bool, progress: Progress
) -> Made:
    """Leave out the blocks of least influence (ShortGPT) and check that each that stays computes what it did.

    Raises ModelError where one does not, and where there is nothing to measure influence on.
    """
    if ids is None:
        raise CalibrationError("blocks are judged by what they do to calibration text, and there is none")
    with open_stream(opened.structure, plan.settings, ids) as stream:
        folder.open(plan.to_dict(opened, ids), resume=resume)
        influence = block_influence(stream, opened, progress)
    kept = ShortGPT().keep(influence, plan.recipe.target())
    write_kept_blocks(opened, folder, kept, influence, plan.saved)
    written = open_model(Source(folder.model, opened.source.trusted), opened.dtype, opened.device)
    check_kept_blocks(opened, written, kept, ids[:1])
    sizes = block_weights(opened.structure, biases=True).sizes.values()
    return Made([], sum(size for number, size in enumerate(sizes) if number not in kept))


def block_influence(stream: Stream, opened: OpenModel, progress: Progress) -> list[float]:
    """Every block's influence in the dense model, in one streamed forward pass."""
    reader = BlockReader((), lambda view: view.watched, Influence)
    return list(survey(stream, opened, reader, progress).values())


def write_kept_blocks(
    opened: OpenModel,
    folder: RunFolder,
    kept: Sequence[int],
    influence: Sequence[float],
    dtype: torch.dtype | None = None,
) -> None:
    """Write the model without the other blocks; blocks.json tells which stayed and every influence."""
    owner = _owners(opened)
    place = _place_of_number(owner)
    numbers = {old: new for new, old in enumerate(kept)}

    def renamed(stored: str) -> str | None:
        if stored not in owner:
            return stored
        if owner[stored] not in numbers:
            return None
        parts = stored.split(".")
        return ".".join([*parts[:place], str(numbers[owner[stored]]), *parts[place + 1 :]])

    target = folder.new_model()
    with storage_errors(target):
        copy_companions(opened.source.folder, target, code=opened.source.trusted)
        write_pruned(opened.checkpoint, target, Edits(name=renamed, dtype=dtype))
        document: dict[str, Any] = read_document(target / "config.json")
        config, (within, _) = read_config(opened.source), pruned_part(opened.structure.model)
        if within:  # the part of a wrapper
            document[within[0]] = depth_config(document[within[0]], getattr(config, within[0]), kept)
        else:
            document = depth_config(document, config, kept)
        write_document(target / "config.json", with_dtype(document, dtype))
        write_document(target / "blocks.json", {"kept": list(kept), "influence": list(influence)})


def _owners(opened: OpenModel) -> dict[str, int]:
    """The block that each stored tensor of one is a part of, buffers too."""
    found: dict[str, int] = {}
    blocks = {f"{block.name}.": block.number for block in opened.structure.blocks}
    for stored in opened.checkpoint.names():
        group = None if opened.names is None else opened.names.group_of(stored)
        names = [opened.model_name(stored)] if group is None else list(group.targets)
        inside = [number for name in names for block, number in blocks.items() if name.startswith(block)]
        if inside:
            found[stored] = inside[0]
    return found


def _place_of_number(owner: Mapping[str, int]) -> int:
    """Where stored names of blocks, split at dots, have the block's number. Raises ModelError where they differ."""
    places = [
        {place for place, part in enumerate(stored.split(".")) if part == str(number)}
        for stored, number in owner.items()
    ]
    common = set.intersection(*places) if places else set()
    if not common:
        raise ModelError("the checkpoint's names do not number its blocks, so whole blocks cannot be removed")
    return min(common)


@torch.no_grad()
def check_kept_blocks(opened: OpenModel, written: OpenModel, kept: Sequence[int], ids: TokenIds) -> None:
    """Compare every block of the written model with the dense block it was, on token ids `[1, length]`.

    Two blocks and one sample are held. Raises ModelError where a block computes something else at its new place, or
    would on other inputs: some classes derive settings from a block's number that no config can hold.
    """
    before, after = opened.structure.blocks, written.structure.blocks
    one = _ONE._replace(device=opened.device)
    with Stream(opened.structure, ids, one) as old_stream, Stream(written.structure, ids, one) as new_stream:
        for stream, held in ((old_stream, opened), (new_stream, written)):
            with held.loaded(held.outside_blocks()):
                stream.embed()
        for new, old in enumerate(kept):
            _check_settings(before[old], after[new])
            with ExitStack() as stack:
                stack.enter_context(opened.loaded(before[old].tensors()))
                stack.enter_context(written.loaded(after[new].tensors()))
                _take_stored_(written, before[old], after[new])
                old_stream.hidden[0] = new_stream.hidden[0]
                expected = old_stream.call(before[old], old_stream.hidden[0], 0)
                found = new_stream.call(after[new], new_stream.hidden[0], 0)
            if not (apart := difference(expected, found)) <= _TOLERANCE:  # written so that NaN is refused too
                raise ModelError(
                    f"{before[old].name} computes something else as {after[new].name} (off by {apart:.2g} of its "
                    f"largest output): {_WHY}"
                )
            new_stream.hidden[0] = found


def _take_stored_(written: OpenModel, before: Block, after: Block) -> None:
    """Give a dense block its weights as they are stored. Raises ModelError where those are not its own, rounded."""
    pairs = zip(before.module.parameters(), after.tensors().items(), strict=True)
    for dense_value, (name, value) in pairs:
        if not torch.equal(dense_value.to(written.dtype_of(name)).to(value.dtype), value):
            raise ModelError(f"{name} is not what {before.name} holds in its place: please report it")
        dense_value.data = value.data


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

"""Masks learned a block at a time: each block is to put out what the dense one does; one block is in memory."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import NamedTuple

import torch
from torch import Tensor

from secateur.adapt.block import Block
from secateur.calibrate.store import Store
from secateur.calibrate.stream import Stream, StreamSettings
from secateur.core.mask import pack, unpack
from secateur.core.seed import generator
from secateur.core.shapes import TokenIds
from secateur.masks.maskllm import LearnedMasks, MaskedBlock, MaskSettings
from secateur.run.allocate import open_stream
from secateur.storage.open_model import OpenModel
from secateur.storage.run_folder import FinishedBlock, RunFolder
from secateur.train.reconstruct import block_error

__all__ = ["BlockTask", "learn_blocks"]

_HELD = 0.1  # share of the batches that judge a block's masks
_LOOK = 10  # steps between looks


class BlockTask(NamedTuple):
    """What blocks are learned by: settings, masks to start from, how activations are held, bfloat16 products."""

    settings: MaskSettings
    prior: Mapping[str, Tensor] | None
    stream: StreamSettings
    half: bool


def learn_blocks(
    opened: OpenModel,
    task: BlockTask,
    ids: TokenIds,
    folder: RunFolder,
    done: int,
    progress: Callable[[int, int], None],
) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """Masks of every layer, and each block's error on held-out windows under the prior and under its masks.

    A block's inputs are those that blocks with learned masks give; its targets are the dense model's outputs.
    done: blocks that the folder holds; a resumed run only computes what they put out.
    """
    blocks = opened.structure.blocks
    keep: dict[str, Tensor] = {}
    reports: list[dict[str, float]] = []
    with open_stream(opened.structure, task.stream, ids) as stream:
        with opened.loaded(opened.outside_blocks()):
            stream.embed()
        with closing(stream.copied()) as dense:
            for block in blocks:
                progress(block.number, len(blocks))
                with opened.loaded(block.tensors()):
                    stream.put_out(block, dense)
                    if block.number < done:
                        finished = folder.load_block(block.number)
                        shapes = {layer.name: tuple(layer.weight.shape) for layer in block.layers}
                        own = {name: unpack(bits, shapes[name]) for name, bits in finished.masks.items()}
                        report = finished.reports[0]
                    else:
                        own, report = _learn(stream, block, dense, task)
                        packed = {name: pack(mask) for name, mask in own.items()}
                        folder.save_block(block.number, FinishedBlock({}, packed, [report], {}))
                    for layer in block.layers:
                        layer.set_weight(layer.weight * own[layer.name])
                    stream.put_out(block, stream.hidden)
                keep |= own
                reports.append(report)
    progress(len(blocks), len(blocks))
    return keep, reports


def _learn(stream: Stream, block: Block, targets: Store, task: BlockTask) -> tuple[dict[str, Tensor], dict[str, float]]:
    """A block's best masks, and its errors under the prior and under them."""
    settings = task.settings
    masks = LearnedMasks(block.layers, settings, task.prior)
    objective = MaskedBlock(lambda hidden: stream.call(block, hidden), masks, half=task.half)
    loop = masks.loop(objective)
    count = len(stream.batches)
    held = range(count - max(1, round(_HELD * count)), count) if count > 1 else range(1)
    known = count - len(held) or 1
    order = generator(settings.seed, "blocks", block.number)
    with masks.attached():
        first = best = _error(stream, block, masks, targets, held)
        chosen = masks.numbers()
        rows: list[int] = []
        for number in range(settings.steps):
            rows = rows or torch.randperm(known, generator=order).tolist()
            index = rows.pop()
            loop.step((stream.hidden[index], targets[index]))
            if (number + 1) % _LOOK == 0 or number + 1 == settings.steps:
                error = _error(stream, block, masks, targets, held)
                if error < best:
                    best, chosen = error, masks.numbers()
    return masks.keep(chosen), {"block": float(block.number), "prior": first, "learned": best}


@torch.no_grad()
def _error(stream: Stream, block: Block, masks: LearnedMasks, targets: Store, held: Sequence[int]) -> float:
    with masks.settled():
        errors = [
            block_error(stream.call(block, stream.hidden[index], index), stream.hidden[index], targets[index])
            for index in held
        ]
    return float(torch.stack(errors).mean())

"""One streamed forward pass of the dense model: look at every block once and move on."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from secateur.adapt.block import Block
from secateur.calibrate.statistic import Gathered, gather
from secateur.calibrate.stream import Reading, Stream
from secateur.core.protocols import BlockView, Statistic, Watcher
from secateur.infer.cold import Cold
from secateur.storage.open_model import OpenModel

__all__ = ["BlockReader", "survey"]

_COLD = Cold(by="magnitude")  # hidden states are on their way already when an expert is found to be cold


@dataclass(frozen=True)
class BlockReader:
    """What is kept of a dense block: `read` gets its weights, its statistics and what a new `watch()` saw of it.

    needs: the statistics to gather in the forward pass. watch: None where nothing is watched.
    """

    needs: Sequence[type[Statistic]]
    read: Callable[[BlockView], Any]
    watch: Callable[[], Watcher | None] = lambda: None


@torch.no_grad()
def survey(
    stream: Stream,
    opened: OpenModel,
    reader: BlockReader,
    progress: Callable[[int, int], None],
    given: Mapping[str, Mapping[Any, Statistic]] | None = None,
) -> dict[str, Any]:
    """What the reader keeps of every dense block, by name; the stream is embedded first.

    Layers that read the same tensor share their statistics; `given` adds those that were gathered
    elsewhere, by layer name. One block is in memory.
    """
    given = given or {}
    with opened.loaded(opened.outside_blocks()):
        stream.embed()
    blocks = opened.structure.blocks
    found: dict[str, Any] = {}
    for number, block in enumerate(blocks):
        progress(number, len(blocks))
        watcher = reader.watch()
        with opened.loaded(block.tensors()):
            with ExitStack() as stack:
                reading = Reading([(stage, gather(reader.needs)) for stage in block.stages if block.inferred])
                stats = _gathering(block, reader.needs, stack)
                for index in range(len(stream.batches)):
                    before = stream.hidden[index]  # [samples, length, hidden]
                    with reading.of(opened.structure.model) if reader.needs else nullcontext():
                        after = stream.call(block, stream.hidden[index], index)
                    if watcher is not None:
                        watcher.update(before, after)
                    stream.hidden[index] = after
            if reader.needs:
                reading.warm_(_COLD, lambda: None)
            stats |= {layer.name: own for stage, own in reading.gathered for layer in stage.layers}
            matrices = {layer.name: layer.weight.float() for layer in block.layers}
            stats |= {name: Gathered({**stats[name].parts, **given[name]}) for name in stats if name in given}
            ends = tuple(stage.layers[0].name for stage in block.stages if stage.answer is not None)
            found[block.name] = reader.read(BlockView(matrices, stats, watcher and watcher.value, ends))
    progress(len(blocks), len(blocks))
    return found


def _gathering(block: Block, needs: Sequence[type[Statistic]], stack: ExitStack) -> dict[str, Gathered]:
    """Statistics by layer name that fill while the block runs, until the stack is closed."""
    stats: dict[str, Gathered] = {}
    for stage in () if block.inferred else block.stages:
        gathered = gather(needs)
        stats |= dict.fromkeys((layer.name for layer in stage.layers), gathered)

        # `into` is bound as a default: a closure would see the last stage's.
        def seen(module: Any, args: tuple[Any, ...], into: Gathered = gathered) -> None:
            into.update(args[0].reshape(-1, args[0].shape[-1]))  # [tokens, in]

        if needs:
            stack.callback(stage.layers[0].module.register_forward_pre_hook(seen).remove)
    return stats

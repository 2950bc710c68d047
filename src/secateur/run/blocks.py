"""solve_blocks(plan, opened, folder, ids): the whole story of one run, a block at a time."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from typing import Any

import torch
from torch import Tensor

from secateur.adapt.block import Block
from secateur.adapt.layer import Layer
from secateur.calibrate.backward import gather_backward, split_needs, stored, unstored
from secateur.calibrate.statistic import Gathered, gather
from secateur.calibrate.store import Store
from secateur.calibrate.stream import Needs, Stream
from secateur.core.errors import SecateurError
from secateur.core.mask import pack, unpack
from secateur.core.shapes import TokenIds
from secateur.judged.masked import MaskedModel
from secateur.run.allocate import open_stream, read_blocks
from secateur.run.plan import Plan, make_plan
from secateur.run.result import LayerReport
from secateur.storage.memory import give_back_freed, peak_memory_mb, resident_memory_mb
from secateur.storage.open_model import OpenModel
from secateur.storage.run_folder import FinishedBlock, RunFolder
from secateur.storage.source import open_whole
from secateur.train.reconstruct import reconstruct_

__all__ = ["solve_blocks"]

Progress = Callable[[int, int], None]
_Streams = tuple[Stream | None, Store | None]  # what the pruned blocks put out, and what the dense ones do
_log = logging.getLogger(__name__)


def solve_blocks(
    plan: Plan, opened: OpenModel, folder: RunFolder, ids: TokenIds | None, *, resume: bool, progress: Progress
) -> tuple[Plan, int]:
    """Solve every block that is not finished into the run folder; return the plan with its last targets, and how many
    blocks were finished before.

    ids: calibration `[samples, length]`; None where nothing is calibrated.
    """
    forward, backward = split_needs(plan.solver.needs)
    reconstructing = plan.recipe.reconstruct is not None
    blocks = opened.structure.blocks
    with ExitStack() as stack:
        stream = dense = None
        if (forward or reconstructing) and ids is not None:
            stream = stack.enter_context(open_stream(opened.structure, plan.settings, ids))
        # After the stream has checked the ids: a run that cannot start leaves no folder.
        done = folder.open(plan.to_dict(opened, ids), resume=resume)
        plan = _allocated(plan, opened, folder, ids, progress)
        if backward and ids is not None and not folder.has_gradients():
            whole = open_whole(opened.source, opened.dtype)  # gradients need every block at once
            gathered = gather_backward(whole, ids, backward, plan.targets.layers.keys())
            folder.save_gradients({name: stored(parts) for name, parts in gathered.items()})
        if stream is not None:
            with opened.loaded(opened.outside_blocks()):
                stream.embed()
            if reconstructing:
                dense = stack.enter_context(closing(stream.copied()))
                for block in blocks[: done if done < len(blocks) else 0]:
                    with opened.loaded(block.tensors()):
                        stream.put_out(block, dense)
            if 0 < done < len(blocks):
                _catch_up(opened, folder, stream, done)
        ceiling = 0.0
        for block in blocks[done:]:
            progress(block.number, len(blocks))
            _solve_block(plan, opened, folder, block, (stream, dense))
            ceiling = _hold_memory(ceiling)
    progress(len(blocks), len(blocks))
    return plan, done


def _catch_up(opened: OpenModel, folder: RunFolder, stream: Stream, done: int) -> None:
    """Bring a resumed stream to the inputs of the next block."""
    blocks = opened.structure.blocks
    if not opened.structure.kind.inferred:  # they were saved with the last block
        stream.hidden.fill(folder.load_hidden(done))
        return
    for block in blocks[:done]:  # run again: blocks may hand on more than hidden states
        finished = folder.load_block(block.number)
        with opened.loaded(block.tensors()):
            for layer in block.layers:
                if (stored := finished.weights.get(layer.name)) is not None:
                    layer.set_weight(stored.T if layer.transposed else stored)
            _remember_shared(opened, block)
            stream.put_out(block, stream.hidden)


def _remember_shared(opened: OpenModel, block: Block) -> None:
    """Keep what became of parameters that later blocks share."""
    for name in {layer.tensor for layer in block.layers}:
        if opened.structure.kind.inferred and len(opened.aliases(name)) > 1:
            opened.solved[name] = opened.structure.model.get_parameter(name).detach().clone()


def _allocated(plan: Plan, opened: OpenModel, folder: RunFolder, ids: TokenIds | None, progress: Progress) -> Plan:
    """The plan with every layer's ratio fixed where the allocator reads the dense model; a resumed run reads it."""
    if not plan.calibrated:
        return plan
    ratios = folder.load_document("allocation")
    if ratios is None:
        read = read_blocks(opened, plan.recipe, ids, progress)
        ratios = dict(read.ratios().ratios)
        if isinstance(read.problem.judge, MaskedModel):
            folder.save_document("candidates", read.problem.judge.told)
        folder.save_document("allocation", ratios)
    return make_plan(plan.recipe, opened, ratios)


def _solve_block(plan: Plan, opened: OpenModel, folder: RunFolder, block: Block, streams: _Streams) -> None:
    """Solve one block into the folder."""
    last = block is opened.structure.blocks[-1]
    finished = FinishedBlock({}, {}, [], {})
    _, backward = split_needs(plan.solver.needs)

    def solve(layers: Sequence[Layer], stats: Gathered) -> None:
        for layer in layers:
            if layer.name in plan.targets.layers:
                own = unstored(backward, *folder.load_gradients(layer.name)) if backward else {}
                _solve_layer(plan, opened, layer, stats.joined(own), finished)

    stream, dense = streams
    with opened.loaded(block.tensors()), ExitStack() as stack:
        stack.callback(_remember_shared, opened, block)
        if stream is None:
            for stage in block.stages:
                solve(stage.layers, gather(()))
        elif dense is None:
            stream.run(block, _needs(plan), solve, last=last)
        else:
            stream.put_out(block, dense)
            stream.run(block, _needs(plan), solve, last=True)  # it is advanced when its weights are trained
            _reconstruct(plan, opened, block, (stream, dense), finished)
            if not last:
                stream.put_out(block, stream.hidden)
    _save(folder, block, finished, None if last else stream)


def _save(folder: RunFolder, block: Block, finished: FinishedBlock, stream: Stream | None) -> None:
    """A block's file; before it the inputs of the next block, if a stream holds them."""
    if stream is not None:
        # Hidden states first: a kill between the two repeats this block and finds its old inputs still there.
        folder.save_hidden(block.number + 1, list(stream.hidden.all()))
    folder.save_block(block.number, finished)
    folder.drop_hidden(block.number)


def _needs(plan: Plan) -> Needs:
    """What is gathered for layers that read the same: nothing where none of them is pruned."""
    forward, _ = split_needs(plan.solver.needs)
    return lambda layers: forward if any(layer.name in plan.targets.layers for layer in layers) else None


def _solve_layer(plan: Plan, opened: OpenModel, layer: Layer, stats: Gathered, finished: FinishedBlock) -> None:
    started = time.perf_counter()
    pattern, ratio = plan.targets.layers[layer.name]
    try:
        solution = plan.solver.solve(layer.weight.float(), stats, pattern, ratio)
    except SecateurError as error:
        raise type(error)(f"{layer.name}: {error}") from error  # the same kind of error, with its place
    layer.set_weight(solution.weight)  # what follows is calibrated on the pruned model
    finished.weights[layer.name] = stored = _stored(plan, opened, layer)
    if opened.structure.kind.inferred:  # a resumed run reads it from the file
        layer.set_weight(stored.T if layer.transposed else stored)
    finished.masks[layer.name] = pack(solution.keep)
    if solution.bias is not None:
        bias = solution.bias if layer.bias is None else layer.bias.float() + solution.bias
        layer.set_bias(bias)
        finished.biases[layer.name] = bias.to(finished.weights[layer.name].dtype)
    report: dict[str, Any] = vars(
        LayerReport(
            name=layer.name,
            ratio=ratio,
            sparsity=1 - int(solution.keep.sum()) / solution.keep.numel(),
            loss=solution.loss,
            weights=solution.keep.numel(),
            seconds=time.perf_counter() - started,
            tokens=stats.tokens,
            fallback=stats.fallback,
        )
    )
    finished.reports.append(report)
    _log.debug("%s: sparsity %.4f, loss %s", layer.name, report["sparsity"], report["loss"])


def _stored(plan: Plan, opened: OpenModel, layer: Layer) -> Tensor:
    """A layer's weight as the checkpoint stores it."""
    weight = layer.weight.to(plan.saved or opened.dtype_of(layer.tensor))
    return (weight.T if layer.transposed else weight).clone(memory_format=torch.contiguous_format)


def _reconstruct(
    plan: Plan, opened: OpenModel, block: Block, streams: tuple[Stream, Store], finished: FinishedBlock
) -> None:
    """Train a solved block's kept weights on the dense block's outputs, and keep what comes of it."""
    settings = plan.recipe.reconstruction()
    if settings is None or not any(report["sparsity"] for report in finished.reports):
        return  # a block that lost nothing, such as an exempt one, stays as it is
    stream, dense = streams
    keep = {
        layer: unpack(finished.masks[layer.name], (layer.weight.shape[0], layer.weight.shape[1]))
        for layer in block.layers
        if layer.name in finished.masks
    }
    if plan.targets.sites:  # layers that make what the masked ones read are trained with them
        keep |= {layer: torch.ones_like(layer.weight, dtype=torch.bool) for layer in block.layers if layer not in keep}
    seed = plan.recipe.calibration.seed + block.number
    hidden, targets = list(stream.hidden.all()), list(dense.all())
    pair = reconstruct_(keep, lambda hidden: stream.call(block, hidden), hidden, targets, settings, seed=seed)
    for layer in keep:
        finished.weights[layer.name] = _stored(plan, opened, layer)
    for report in finished.reports:
        report["block_error"] = pair
    _log.debug("%s: error %.4f, after training %.4f", block.name, *pair)


def _hold_memory(ceiling: float) -> float:
    """Give freed memory back once a tenth over the first block's peak is held; it costs page faults."""
    ceiling = ceiling or 1.1 * peak_memory_mb()
    if resident_memory_mb() > ceiling:
        give_back_freed()
    return ceiling

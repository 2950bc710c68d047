"""solve_blocks(plan, opened, folder, ids): the whole story of one run, a block at a time."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from secateur.adapt.block import Block
from secateur.adapt.layer import Layer
from secateur.calibrate.backward import gather_backward, split_needs, stored, unstored
from secateur.calibrate.statistic import Gathered, gather
from secateur.calibrate.stream import Stream
from secateur.core.errors import SecateurError
from secateur.core.mask import pack
from secateur.core.protocols import Statistic
from secateur.core.shapes import TokenIds
from secateur.run.allocate import open_stream, read_blocks
from secateur.run.plan import Plan, make_plan
from secateur.run.result import LayerReport
from secateur.storage.memory import give_back_freed, peak_memory_mb, resident_memory_mb
from secateur.storage.open_model import OpenModel
from secateur.storage.run_folder import FinishedBlock, RunFolder
from secateur.storage.source import open_whole

__all__ = ["solve_blocks"]

Progress = Callable[[int, int], None]
_log = logging.getLogger(__name__)


def solve_blocks(
    plan: Plan, opened: OpenModel, folder: RunFolder, ids: TokenIds | None, *, resume: bool, progress: Progress
) -> tuple[Plan, int]:
    """Solve every block that is not finished into the run folder; return the plan with its last targets, and how many
    blocks were finished before.

    ids: calibration `[samples, length]`; None where nothing is calibrated.
    """
    forward, backward = split_needs(plan.solver.needs)
    blocks = opened.structure.blocks
    with ExitStack() as stack:
        stream = None
        if forward and ids is not None:
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
            if 0 < done < len(blocks):  # the inputs of the next block were saved with the last
                stream.hidden.fill(folder.load_hidden(done))
        ceiling = 0.0
        for block in blocks[done:]:
            progress(block.number, len(blocks))
            _solve_block(plan, opened, folder, block, stream)
            ceiling = _hold_memory(ceiling)
    progress(len(blocks), len(blocks))
    return plan, done


def _allocated(plan: Plan, opened: OpenModel, folder: RunFolder, ids: TokenIds | None, progress: Progress) -> Plan:
    """The plan with every layer's ratio fixed where the allocator reads the dense model; a resumed run reads it."""
    if not plan.calibrated:
        return plan
    ratios = folder.load_document("allocation")
    if ratios is None:
        ratios = dict(read_blocks(opened, plan.recipe, ids, progress).ratios().ratios)
        folder.save_document("allocation", ratios)
    return make_plan(plan.recipe, opened, ratios)


def _solve_block(plan: Plan, opened: OpenModel, folder: RunFolder, block: Block, stream: Stream | None) -> None:
    last = block is opened.structure.blocks[-1]
    finished = FinishedBlock({}, {}, [], {})
    forward, backward = split_needs(plan.solver.needs)

    def needs(layers: Sequence[Layer]) -> Sequence[type[Statistic]] | None:
        return forward if any(layer.name in plan.targets.layers for layer in layers) else None

    def solve(layers: Sequence[Layer], stats: Gathered) -> None:
        for layer in layers:
            if layer.name in plan.targets.layers:
                own = unstored(backward, *folder.load_gradients(layer.name)) if backward else {}
                _solve_layer(plan, opened, layer, Gathered({**stats.parts, **own}), finished)

    with opened.loaded(block.tensors()):
        if stream is None:
            for stage in block.stages:
                solve(stage.layers, gather(()))
        else:
            stream.run(block, needs, solve, last=last)
    if stream is not None and not last:
        # Hidden states first: a kill between the two repeats this block and finds its old inputs still there.
        folder.save_hidden(block.number + 1, list(stream.hidden.all()))
    folder.save_block(block.number, finished)
    folder.drop_hidden(block.number)


def _solve_layer(plan: Plan, opened: OpenModel, layer: Layer, stats: Gathered, finished: FinishedBlock) -> None:
    started = time.perf_counter()
    pattern, ratio = plan.targets.layers[layer.name]
    try:
        solution = plan.solver.solve(layer.weight.float(), stats, pattern, ratio)
    except SecateurError as error:
        raise type(error)(f"{layer.name}: {error}") from error  # the same kind of error, with its place
    layer.set_weight(solution.weight)  # what follows is calibrated on the pruned model
    stored = solution.weight.to(plan.saved or opened.dtype_of(f"{layer.name}.weight"))  # as the checkpoint stores it
    finished.weights[layer.name] = (stored.T if layer.transposed else stored).contiguous()
    finished.masks[layer.name] = pack(solution.keep)
    if solution.bias is not None:
        bias = solution.bias if layer.bias is None else layer.bias.float() + solution.bias
        layer.set_bias(bias)
        finished.biases[layer.name] = bias.to(stored.dtype)
    report: dict[str, Any] = vars(
        LayerReport(
            name=layer.name,
            ratio=ratio,
            sparsity=1 - int(solution.keep.sum()) / solution.keep.numel(),
            loss=solution.loss,
            weights=solution.keep.numel(),
            seconds=time.perf_counter() - started,
        )
    )
    finished.reports.append(report)
    _log.debug("%s: sparsity %.4f, loss %s", layer.name, report["sparsity"], report["loss"])


def _hold_memory(ceiling: float) -> float:
    """Give freed memory back once a tenth over the first block's peak is held; it costs page faults."""
    ceiling = ceiling or 1.1 * peak_memory_mb()
    if resident_memory_mb() > ceiling:
        give_back_freed()
    return ceiling

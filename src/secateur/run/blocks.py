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
from secateur.calibrate.statistic import Cross, Gathered, Gram, gather
from secateur.calibrate.store import Store
from secateur.calibrate.stream import Needs, Stream
from secateur.core.errors import CalibrationError, SecateurError
from secateur.core.mask import pack, unpack
from secateur.core.protocols import Solution
from secateur.core.shapes import Samples
from secateur.events import report, stage
from secateur.infer.blocks import tokens_each
from secateur.machine.memory import give_back_freed, peak_memory_mb, resident_memory_mb
from secateur.machine.ranks import agreed, merged, place, shared, tensors_from, wait
from secateur.run.allocate import open_stream, read_blocks
from secateur.run.plan import Plan, make_plan
from secateur.run.result import LayerReport
from secateur.solve.matched import matched
from secateur.storage.open_model import OpenModel
from secateur.storage.run_folder import FinishedBlock, RunFolder
from secateur.train.reconstruct import reconstruct_

__all__ = ["solve_blocks"]

Progress = Callable[[int, int], None]
_Streams = tuple[Stream | None, Store | None]  # what the pruned blocks put out, and what the dense ones do
_NOTHING = Solution(torch.empty(0, 0), torch.empty(0, 0, dtype=torch.bool), None)  # that another process solves
_SMALL = 64 << 20  # bytes of hidden states that are written after every block
_RARELY = 120.0  # seconds between larger ones: a resumed run takes the finished blocks since then forward again
_log = logging.getLogger(__name__)


def solve_blocks(
    plan: Plan, opened: OpenModel, folder: RunFolder, ids: Samples | None, *, resume: bool, progress: Progress
) -> tuple[Plan, int]:
    """Solve every block that is not finished into the run folder; return the plan with its last targets, and how many
    blocks were finished before.

    ids: what calibrates, `[samples, length]`, or pixels; None where nothing is calibrated.
    """
    forward, _ = split_needs(plan.solver.needs)
    beside = plan.recipe.looks_at_dense()
    blocks = opened.structure.blocks
    own = _own_part(ids)
    with ExitStack() as stack:
        stream = dense = None
        if (forward or beside) and own is not None:
            stream = stack.enter_context(open_stream(opened.structure, plan.settings, own))
        # After the stream has checked the ids: a run that cannot start leaves no folder.
        done = agreed(folder.open(plan.to_dict(opened, ids), resume=resume))
        plan = _allocated(plan, opened, folder, ids, progress)
        _gather_gradients(plan, opened, folder, own)
        if stream is not None:
            with opened.loaded(opened.outside_blocks()):
                stream.embed()
            if beside:
                dense = stack.enter_context(closing(stream.copied()))
                for block in blocks[: done if done < len(blocks) else 0]:
                    with opened.loaded(block.tensors()):
                        stream.put_out(block, dense)
            if 0 < done < len(blocks):
                _catch_up(opened, folder, stream, done)
        tokens = 0 if stream is None or ids is None else len(ids) * tokens_each(ids)
        ceiling = 0.0
        stage("pruning blocks")
        for block in blocks[done:]:
            progress(block.number, len(blocks))
            begun = time.perf_counter()
            finished = _solve_block(plan, opened, folder, block, (stream, dense))
            _tell(
                block,
                finished,
                tokens,
                time.perf_counter() - begun,
            )
            ceiling = _hold_memory(ceiling)
    progress(len(blocks), len(blocks))
    return plan, done


def _own_part(ids: Samples | None) -> Samples | None:
    """The samples that this process runs; every process has some."""
    rank, count = place()
    if ids is not None and len(ids) < count:
        raise CalibrationError(f"{count} processes share {len(ids)} calibration samples: give at least one to each")
    return None if ids is None else ids[rank::count]


def _gather_gradients(plan: Plan, opened: OpenModel, folder: RunFolder, ids: Samples | None) -> None:
    """Write what backward passes give every layer, unless it was written before."""
    _, backward = split_needs(plan.solver.needs)
    if not backward or ids is None or agreed(folder.has_gradients()):
        return
    stage("taking gradients of the whole model")
    whole = opened.whole()  # gradients need every block at once
    gathered = gather_backward(whole, ids, backward, plan.targets.layers.keys())
    every = {name: {kind: merged(part) for kind, part in parts.items()} for name, parts in gathered.items()}
    folder.save_gradients({name: stored(parts) for name, parts in every.items()})


def _catch_up(opened: OpenModel, folder: RunFolder, stream: Stream, done: int) -> None:
    """Bring a resumed stream to the inputs of the next block."""
    # Blocks whose layers are inferred may hand on more than hidden states: all of them are run again.
    known = 0 if opened.structure.kind.inferred else folder.last_hidden(done)
    if known:
        stream.hidden.fill(folder.load_hidden(known))
    for block in opened.structure.blocks[known:done]:
        finished = folder.load_block(block.number)
        with opened.loaded(block.tensors()):
            for layer in block.layers:
                _put(layer, finished)
            _remember_shared(opened, block)
            stream.put_out(block, stream.hidden)


def _put(layer: Layer, finished: FinishedBlock) -> None:
    """Give a layer what is written of it, so that what follows is calibrated on the model that will be loaded."""
    if (weight := finished.weights.get(layer.name)) is not None:
        layer.set_weight(weight.T if layer.transposed else weight)
    if (bias := finished.biases.get(layer.name)) is not None:
        layer.set_bias(bias.to(layer.weight.device))


def _remember_shared(opened: OpenModel, block: Block) -> None:
    """Keep what became of parameters that later blocks share."""
    for name in {layer.tensor for layer in block.layers}:
        if opened.structure.kind.inferred and len(opened.aliases(name)) > 1:
            opened.solved[name] = opened.structure.model.get_parameter(name).detach().clone()


def _allocated(plan: Plan, opened: OpenModel, folder: RunFolder, ids: Samples | None, progress: Progress) -> Plan:
    """The plan with every layer's ratio fixed where the allocator reads the dense model; a resumed run reads it."""
    if not plan.calibrated:
        return plan
    ratios = folder.load_document("allocation")
    if ratios is None and place()[0] == 0:
        read = read_blocks(opened, plan.recipe, ids, progress, plan.settings)
        stage("choosing a ratio for every layer")
        ratios = dict(read.ratios().ratios)
        if read.problem.judge is not None:
            folder.save_document("candidates", read.problem.judge.told)
        folder.save_document("allocation", ratios)
    return make_plan(plan.recipe, opened, shared(ratios), half=plan.settings.half)


def _tell(block: Block, finished: FinishedBlock, tokens: int, seconds: float) -> None:
    """Say how a block went: its summed loss, tokens a second where it was calibrated, peak memory."""
    losses = [each["loss"] for each in finished.reports if each["loss"] is not None]
    report(
        "%s: pruned in %.1f s",
        block.name,
        seconds,
        block=block.name,
        layer_loss=sum(losses) if losses else None,
        tokens_per_second=tokens / seconds if tokens else None,
        peak_memory_mb=peak_memory_mb(),
    )


def _solve_block(plan: Plan, opened: OpenModel, folder: RunFolder, block: Block, streams: _Streams) -> FinishedBlock:
    """Solve one block into the folder, and return it."""
    last = block is opened.structure.blocks[-1]
    finished = FinishedBlock({}, {}, [], {})

    def solve(layers: Sequence[Layer], stats: Gathered) -> None:
        wanted = [layer for layer in layers if layer.name in plan.targets.layers]
        if wanted:
            _solve_stage(plan, opened, folder, wanted, stats, finished)

    stream, dense = streams
    with opened.loaded(block.tensors()), ExitStack() as stack:
        stack.callback(_remember_shared, opened, block)
        if stream is None:
            for stage in block.stages:
                solve(stage.layers, gather(()))
        elif dense is None:
            stream.run(block, _needs(plan), solve, last=last)
        else:
            with stream.watched(block, dense, keep=plan.recipe.match is not None) as read:
                training = plan.recipe.reconstruct is not None  # then it is advanced when its weights are trained
                stream.run(block, _needs(plan), solve, last=last or training, beside=read)
            _reconstruct(plan, opened, block, (stream, dense), finished)
            if training and not last:
                stream.put_out(block, stream.hidden)
    _save(folder, block, finished, None if last else stream)
    return finished


def _solve_stage(
    plan: Plan,
    opened: OpenModel,
    folder: RunFolder,
    layers: Sequence[Layer],
    stats: Gathered,
    finished: FinishedBlock,
) -> None:
    """Solve layers that read the same, a layer for each process at a time."""
    rank, count = place()
    if count > 1:
        stats = stats.joined({kind: merged(part) for kind, part in stats.parts.items()})
    for turn in range(0, len(layers), count):
        group = layers[turn : turn + count]
        own = _solved(plan, folder, group[rank], stats) if rank < len(group) else None
        for owner, layer in enumerate(group):
            _take(plan, opened, layer, _told(owner, own), stats, finished)


def _save(folder: RunFolder, block: Block, finished: FinishedBlock, stream: Stream | None) -> None:
    """A block's file; before it the inputs of the next block, where they are small or were not written for a while."""
    known = folder.last_hidden(block.number)
    if stream is not None and (stream.hidden.nbytes <= _SMALL or folder.hidden_age() >= _RARELY):
        # Hidden states first: a kill between the two repeats this block and finds its old inputs still there.
        folder.save_hidden(block.number + 1, [hidden.cpu() for hidden in stream.hidden.all()])
    folder.save_block(block.number, finished)
    wait()  # until no process needs to begin this block again
    if stream is None or folder.last_hidden(block.number + 1) > known:
        folder.drop_hidden(known)


def _needs(plan: Plan) -> Needs:
    """What is gathered for layers that read the same: nothing where none of them is pruned."""
    forward, _ = split_needs(plan.solver.needs)
    if plan.recipe.match:
        forward = list(dict.fromkeys((*forward, Gram, Cross)))
    return lambda layers: forward if any(layer.name in plan.targets.layers for layer in layers) else None


def _solved(plan: Plan, folder: RunFolder, layer: Layer, stats: Gathered) -> tuple[Solution, float]:
    """What the solver makes of a layer and its inputs' statistics, and the seconds it took."""
    started = time.perf_counter()
    pattern, ratio = plan.targets.layers[layer.name]
    _, backward = split_needs(plan.solver.needs)
    gradients = folder.load_gradients(layer.name) if backward else ({}, {})
    stats = stats.joined(unstored(backward, *gradients, layer.weight.device))
    try:
        weight = layer.weight.float()
        if Cross in stats and ratio > 0:  # what loses nothing stays as it is
            weight = matched(weight, stats)
        solution = plan.solver.solve(weight, stats, pattern, ratio)
    except SecateurError as error:
        raise type(error)(f"{layer.name}: {error}") from error  # the same kind of error, with its place
    return solution, time.perf_counter() - started


def _told(owner: int, solved: tuple[Solution, float] | None) -> tuple[Solution, float]:
    """A solution and its seconds, from the process that has them."""
    rank, count = place()
    if count == 1 and solved is not None:
        return solved
    solution, seconds = solved if solved is not None and owner == rank else (_NOTHING, 0.0)
    told = None if solution.loss is None else torch.tensor(solution.loss, dtype=torch.float64)
    numbers = torch.tensor(seconds, dtype=torch.float64)
    sent = {"weight": solution.weight, "keep": solution.keep, "bias": solution.bias, "loss": told, "seconds": numbers}
    found: dict[str, Any] = tensors_from(owner, sent)
    loss = None if found["loss"] is None else float(found["loss"])
    return Solution(found["weight"], found["keep"], loss, found["bias"]), float(found["seconds"])


def _take(
    plan: Plan,
    opened: OpenModel,
    layer: Layer,
    solved: tuple[Solution, float],
    stats: Gathered,
    finished: FinishedBlock,
) -> None:
    """Put a solution into the layer, and into what the block has finished."""
    solution, seconds = solved
    layer.set_weight(solution.weight)
    finished.weights[layer.name] = _stored(plan, opened, layer)
    finished.masks[layer.name] = pack(solution.keep)
    if solution.bias is not None:
        bias = solution.bias if layer.bias is None else layer.bias.float() + solution.bias.to(layer.bias.device)
        finished.biases[layer.name] = bias.to("cpu", finished.weights[layer.name].dtype)
    _put(layer, finished)
    told: dict[str, Any] = vars(
        LayerReport(
            name=layer.name,
            ratio=plan.targets.layers[layer.name].ratio,
            sparsity=1 - int(solution.keep.sum()) / solution.keep.numel(),
            loss=solution.loss,
            weights=solution.keep.numel(),
            seconds=seconds,
            tokens=stats.tokens,
            fallback=stats.fallback,
        )
    )
    finished.reports.append(told)
    _log.debug("%s: sparsity %.4f, loss %s", layer.name, told["sparsity"], told["loss"], extra={"facts": told})


def _stored(plan: Plan, opened: OpenModel, layer: Layer) -> Tensor:
    """A layer's weight as the checkpoint stores it."""
    weight = layer.weight.to("cpu", plan.saved or opened.dtype_of(layer.tensor))
    return (weight.T if layer.transposed else weight).clone(memory_format=torch.contiguous_format)


def _reconstruct(
    plan: Plan, opened: OpenModel, block: Block, streams: tuple[Stream, Store], finished: FinishedBlock
) -> None:
    """Train a solved block's kept weights on the dense block's outputs, and keep what comes of it."""
    settings = plan.recipe.reconstruction()
    if settings is None or not any(told["sparsity"] for told in finished.reports):
        return  # a block that lost nothing, such as an exempt one, stays as it is
    stream, dense = streams
    keep = {
        layer: unpack(finished.masks[layer.name], (layer.weight.shape[0], layer.weight.shape[1])).to(opened.device)
        for layer in block.layers
        if layer.name in finished.masks
    }
    if plan.targets.sites:  # layers that make what the masked ones read are trained with them
        keep |= {layer: torch.ones_like(layer.weight, dtype=torch.bool) for layer in block.layers if layer not in keep}
    seed = plan.recipe.calibration.seed + block.number
    pair = reconstruct_(keep, lambda hidden: stream.call(block, hidden), stream.hidden, dense, settings, seed=seed)
    for layer in keep:
        finished.weights[layer.name] = _stored(plan, opened, layer)
        _put(layer, finished)
    for told in finished.reports:
        told["block_error"] = pair
    _log.debug("%s: error %.4f, after training %.4f", block.name, *pair)


def _hold_memory(ceiling: float) -> float:
    """Give freed memory back once a tenth over the first block's peak is held; it costs page faults."""
    ceiling = ceiling or 1.1 * peak_memory_mb()
    if resident_memory_mb() > ceiling:
        give_back_freed()
    return ceiling

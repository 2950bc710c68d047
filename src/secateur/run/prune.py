"""prune(model, recipe, out) -> Result: open the model, plan, solve blocks, assemble."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from transformers import PreTrainedModel

from secateur.calibrate.data import draw_for
from secateur.core.errors import CalibrationError, first_line
from secateur.core.files import storage_errors, write_document
from secateur.core.shapes import Samples, TokenIds
from secateur.evaluate.streamed import streamed_perplexity
from secateur.events import stage
from secateur.experts.drop import DropTask, drop_experts
from secateur.experts.dropping import DropExperts
from secateur.infer.blocks import tokens_each
from secateur.infer.describe import record
from secateur.machine.device import pick_device
from secateur.machine.memory import peak_memory_mb
from secateur.machine.ranks import place, processes, shared
from secateur.report.card import write_card
from secateur.run.allocate import open_stream
from secateur.run.assemble import assemble
from secateur.run.blocks import solve_blocks
from secateur.run.depth import drop_blocks
from secateur.run.plan import Plan, compute_dtype, half_products, make_plan
from secateur.run.recipe import Recipe
from secateur.run.result import Made, Result
from secateur.run.timing import timed
from secateur.storage.open_model import OpenModel, open_model
from secateur.storage.run_folder import RunFolder
from secateur.storage.shards import Checkpoint
from secateur.storage.source import Source, resolve

__all__ = ["Progress", "prune"]

Progress = Callable[[int, int], None]
_HELD = 2  # windows a finished run is looked at with


class _Drawn(NamedTuple):
    """What calibrates, and windows of text that calibrate nothing; None where there are none."""

    samples: Samples | None
    held: TokenIds | None


def prune(
    model: str | Path | Source | PreTrainedModel,
    recipe: Recipe,
    out: str | Path,
    *,
    ids: Samples | None = None,
    resume: bool = False,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Prune a model folder, hub name, .gguf file, bundled:smollm2 or a model in memory into the folder `out`.

    Weights are read, solved and written one block at a time; a finished block survives
    an interruption, and `resume` continues with the same bits. `ids` `[samples, length]`
    replaces the recipe's calibration (pixels `[samples, channels, high, wide]` where the
    model reads pictures); a model in memory has no tokenizer, so methods that calibrate
    need them. Raises a SecateurError with one sentence on anything that cannot
    be done; `out` then does not exist. Processes that torchrun started share the
    calibration samples and the layers; the first one writes.
    """
    name = f"{type(model).__name__} in memory" if isinstance(model, PreTrainedModel) else str(model)
    tell = progress or (lambda block, blocks: None)
    with processes() as (rank, _):
        folder = RunFolder(Path(out) if rank == 0 else Path(f"{out}.rank{rank}"))
        try:
            named = replace(recipe, model=name, out=str(out))
            with _opened(model, trust_remote_code) as source:
                return _run(source, named, folder, ids, resume=resume, progress=tell)
        except BaseException:  # Ctrl-C too must not leave an empty folder
            folder.give_up()
            raise


@contextmanager
def _opened(model: str | Path | Source | PreTrainedModel, trusted: bool) -> Iterator[Source]:
    """What the user named, as a source; a model in memory is saved to a folder for as long as it is read."""
    if not isinstance(model, PreTrainedModel):
        yield resolve(model, trusted=trusted)
        return
    with tempfile.TemporaryDirectory(prefix="secateur-") as saved:
        model.save_pretrained(saved)
        yield Source(Path(saved))


def _planned(source: Source, recipe: Recipe, folder: RunFolder, *, resume: bool) -> tuple[OpenModel, Plan]:
    """The open model, and the plan; timings differ from run to run, so a resumed one takes what the first found."""
    known = folder.planned if resume else dict[str, Any]().get
    recipe = timed(recipe, source, known("timed_ratio"))
    opened = open_model(source, compute_dtype(recipe), pick_device(recipe.device))
    stage("reading the model")
    opened.checkpoint.check_finite()  # one NaN would spread through every Gram
    return opened, make_plan(recipe, opened, half=half_products(recipe, opened, known("half")))


def _products(plan: Plan) -> str:
    """What forward passes multiplied in, if there were any."""
    half = plan.settings.half and plan.reads_text
    return str(torch.bfloat16 if half else compute_dtype(plan.recipe)).removeprefix("torch.")


def _run(
    source: Source, recipe: Recipe, folder: RunFolder, ids: Samples | None, *, resume: bool, progress: Progress
) -> Result:
    started = time.perf_counter()
    opened, plan = _planned(source, recipe, folder, resume=resume)
    recipe = plan.recipe
    drawn = _draw(plan, opened, ids)
    if not recipe.drops_whole():
        plan, done = solve_blocks(plan, opened, folder, drawn.samples, resume=resume, progress=progress)
    if place()[0] > 0:  # the first process writes
        result = Result.from_dict(shared(None))
        folder.discard()
        return result
    if recipe.whole_blocks():
        made = drop_blocks(plan, opened, folder, drawn.samples, resume=resume, progress=progress)
    elif recipe.whole_experts():
        made = _drop_experts(plan, opened, folder, drawn.samples, resume=resume, progress=progress)
    else:
        stage("writing the model")
        made = assemble(plan, opened, folder, done)
    sizes = [checkpoint.size() for checkpoint in (opened.checkpoint, Checkpoint(folder.model))]
    result = Result(
        out=folder.out,
        recipe=recipe.to_dict(),
        layers=made.layers,
        block_weights=plan.targets.weights,
        removed_weights=made.removed,
        held_out=_check_held_out(plan, source, folder, drawn.held),
        candidates=folder.load_document("candidates"),
        seconds=time.perf_counter() - started,
        peak_memory_mb=peak_memory_mb(),
        resumed_blocks=made.resumed,
        calibration_tokens=0 if drawn.samples is None else len(drawn.samples) * tokens_each(drawn.samples),
        parameters=(sizes[0][0], sizes[1][0]),
        bytes=(sizes[0][1], sizes[1][1]),
        trust_remote_code=source.trusted,
        device=str(plan.settings.device),
        products=_products(plan),
    )
    with storage_errors(folder.out):
        write_document(folder.model / "result.json", result.to_dict())
        write_card(folder.model, folder.out.name, source.folder)
        if opened.structure.kind.inferred:
            write_document(folder.model / "structure.json", record(opened.structure))
    folder.finish()
    shared(result.to_dict())
    return result


def _drop_experts(
    plan: Plan, opened: OpenModel, folder: RunFolder, ids: TokenIds | None, *, resume: bool, progress: Progress
) -> Made:
    """Leave out the experts of least worth. Raises CalibrationError where there is nothing to measure it on."""
    if ids is None:
        raise CalibrationError("experts are judged by what they do to calibration text, and there is none")
    with open_stream(opened.structure, plan.settings, ids) as stream:
        folder.open(plan.to_dict(opened, ids), resume=resume)
        task = DropTask(cast(DropExperts, plan.solver), plan.recipe.target(), plan.saved)
        dropped = drop_experts(opened, folder, task, stream, progress)
    return Made([], dropped.weights)


def _draw(plan: Plan, opened: OpenModel, ids: Samples | None) -> _Drawn:
    """What calibrates: the ids that are given, else those the recipe names, where anything is calibrated."""
    if not plan.reads_text:
        return _Drawn(None, None)
    if ids is not None:
        return _Drawn(ids, None)
    return _Drawn(*draw_for(opened.structure.model, opened.source, plan.recipe.calibration, _HELD))


def _check_held_out(plan: Plan, source: Source, folder: RunFolder, held: TokenIds | None) -> dict[str, Any] | None:
    """Perplexity before and after on windows that calibrated nothing, where there are some."""
    if held is None:
        return None
    stage("measuring perplexity before and after")
    pair = (source, Source(folder.model, source.trusted))  # opened anew: what was solved may have other biases
    try:
        before, after = (
            streamed_perplexity(open_model(one, compute_dtype(plan.recipe), plan.settings.device), held, plan.settings)
            for one in pair
        )
    except Exception as error:  # a class may fail in ways of its own, and the pruned model is finished
        return {"failed": f"{type(error).__name__}: {first_line(error)}"}
    if before is None or after is None:
        return None
    windows, length = held.shape
    return {"windows": windows, "length": length, "before": before, "after": after}

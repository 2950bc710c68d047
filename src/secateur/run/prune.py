"""prune(model, recipe, out) -> Result: the whole story, a block at a time."""

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from secateur.adapt.adapter import Adapter, Block, Layer
from secateur.adapt.source import Source, load_model, load_tokenizer, resolve, skeleton
from secateur.allocate.problem import CalibratedAllocator
from secateur.calibrate.gradient import Gradient, layer_gradients
from secateur.calibrate.statistic import Gathered, gather
from secateur.calibrate.stream import Stream
from secateur.core.errors import ModelError, SecateurError
from secateur.core.files import storage_errors, write_document
from secateur.core.mask import pack
from secateur.core.protocols import Solver, Statistic
from secateur.core.shapes import TokenIds
from secateur.evaluate.streamed import streamed_perplexity
from secateur.run.allocate import compute_dtype, open_stream, read_blocks, saved_dtype, stream_settings
from secateur.run.assemble import assemble
from secateur.run.depth import block_influence, check_kept_blocks, write_kept_blocks
from secateur.run.recipe import Recipe
from secateur.run.result import LayerReport, Result, versions
from secateur.run.targets import Targets, block_weights, choose_targets
from secateur.run.timing import timed
from secateur.solve.bias_compensation import BiasCompensation
from secateur.solve.shortgpt import ShortGPT
from secateur.storage.memory import give_back_freed, peak_memory_mb, resident_memory_mb
from secateur.storage.run_folder import FinishedBlock, RunFolder
from secateur.storage.shards import Checkpoint
from secateur.storage.weights import Weights

__all__ = ["Progress", "prune"]

Progress = Callable[[int, int], None]
_HELD = 2  # windows a finished run is looked at with
_log = logging.getLogger(__name__)


def prune(
    model: str | Path | Source,
    recipe: Recipe,
    out: str | Path,
    *,
    ids: TokenIds | None = None,
    resume: bool = False,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Prune a model folder, hub name, .gguf file or bundled:smollm2 into the folder `out`.

    Weights are read, solved and written one block at a time; a finished block survives
    an interruption, and `resume` goes on with the same bits. `ids` `[samples, length]`
    replaces the recipe's calibration. Raises a SecateurError with one sentence on
    anything that cannot be done; `out` then does not exist.
    """
    folder = RunFolder(Path(out))
    try:
        named = replace(recipe, model=str(model), out=str(out))
        source = resolve(model, trusted=trust_remote_code)
        return _run(source, named, folder, ids, resume=resume, progress=progress or (lambda block, blocks: None))
    except BaseException:
        folder.give_up()
        raise


def _run(
    source: Source, recipe: Recipe, folder: RunFolder, ids: TokenIds | None, *, resume: bool, progress: Progress
) -> Result:
    started = time.perf_counter()
    recipe = timed(recipe, source, folder.planned("timed_ratio") if resume else None)
    job = _Job(source, Checkpoint(source.folder), recipe, folder)
    done, removed, layers = 0, 0, list[LayerReport]()
    if recipe.whole_blocks():
        removed = job.drop_blocks(ids, resume=resume, progress=progress)
    else:
        done = job.run(ids, resume=resume, progress=progress)
        layers = [
            LayerReport(**report) for report in assemble(job.weights, folder, source, job.targets.sites, job.saved)
        ]
        removed = job.targets.removed(layers)
    held = job.check_held_out()
    sizes = [checkpoint.size() for checkpoint in (job.checkpoint, Checkpoint(folder.model))]
    result = Result(
        out=folder.out,
        recipe=recipe.to_dict(),
        layers=layers,
        block_weights=job.targets.weights,
        removed_weights=removed,
        seconds=time.perf_counter() - started,
        peak_memory_mb=peak_memory_mb(),
        resumed_blocks=done,
        calibration_tokens=job.tokens,
        parameters=(sizes[0][0], sizes[1][0]),
        bytes=(sizes[0][1], sizes[1][1]),
        held_out=held,
        trust_remote_code=source.trusted,
    )
    job.publish(result)
    return result


class _Job:
    """One run: what is opened once and shared by its steps."""

    def __init__(self, source: Source, checkpoint: Checkpoint, recipe: Recipe, folder: RunFolder) -> None:
        self.source = source
        self.recipe = recipe
        self.folder = folder
        self.adapter = Adapter(skeleton(source))
        self.blocks = self.adapter.blocks()
        self.dtype = compute_dtype(recipe)
        self.saved = saved_dtype(recipe)
        self.weights = Weights(checkpoint, self.adapter, self.dtype)
        self.checkpoint = checkpoint
        self.solver: Solver = recipe.solver()
        checkpoint.check_finite()
        self.targets = self._targets(recipe)
        self.streamed = [kind for kind in self.solver.needs if kind is not Gradient]
        self.tokens = 0
        self.held: TokenIds | None = None
        self.ceiling = 0.0
        self._check_layers()

    def run(self, ids: TokenIds | None, *, resume: bool, progress: Progress) -> int:
        """Solve every block that is not finished; return how many were."""
        needed = bool(self.solver.needs) or isinstance(self.recipe.build_allocator(), CalibratedAllocator)
        if ids is None and needed:
            ids = self._draw()
        self.tokens = ids.numel() if needed and ids is not None else 0
        with ExitStack() as stack:
            stream = None
            if self.streamed and ids is not None:
                stream = stack.enter_context(open_stream(self.adapter, self.recipe, ids))
            done = self.folder.open(self._plan(ids), resume=resume)
            self._allocate(ids, progress)
            if Gradient in self.solver.needs and ids is not None and not self.folder.has_gradients():
                model = load_model(self.source, self.dtype)
                self.folder.save_gradients(layer_gradients(Adapter(model), ids, self.targets.layers.keys()))
            if stream is not None:
                self._start(stream, done)
            for index, block in enumerate(self.blocks[done:], done):
                progress(index, len(self.blocks))
                self._block(index, block, stream)
        progress(len(self.blocks), len(self.blocks))
        return done

    def drop_blocks(self, ids: TokenIds | None, *, resume: bool, progress: Progress) -> int:
        """Leave out the blocks of least influence; return the weights that went."""
        ids = self._draw() if ids is None else ids
        self.tokens = ids.numel()
        with open_stream(self.adapter, self.recipe, ids) as stream:
            self.folder.open(self._plan(ids), resume=resume)
            influence = block_influence(stream, self.weights, progress)
        kept = ShortGPT().keep(influence, self.recipe.target())
        write_kept_blocks(self.weights, self.folder, self.source, kept, influence, self.saved)
        check_kept_blocks(self.weights, Source(self.folder.model, self.source.trusted), kept, ids[:1])
        sizes = block_weights(self.adapter, biases=True).sizes.values()
        return sum(size for number, size in enumerate(sizes) if number not in kept)

    def check_held_out(self) -> dict[str, Any] | None:
        """Perplexity before and after on windows that calibrated nothing, where there are some."""
        if self.held is None:
            return None
        written = Source(self.folder.model, self.source.trusted)
        settings = stream_settings(self.recipe)
        before, after = (
            streamed_perplexity(Weights(Checkpoint(model.folder), Adapter(skeleton(model)), self.dtype), ids, settings)
            for model, ids in ((self.source, self.held), (written, self.held))
        )
        if before is None or after is None:
            return None
        windows, length = self.held.shape
        return {"windows": windows, "length": length, "before": before, "after": after}

    def _draw(self) -> TokenIds:
        plan = self.recipe.calibration.fitted(self.adapter.model.config)
        ids, self.held = plan.draw_held(load_tokenizer(self.source), _HELD)
        return ids

    def publish(self, result: Result) -> None:
        """Add result.json and move the model to its name."""
        with storage_errors(self.folder.out):
            write_document(self.folder.model / "result.json", result.to_dict())
        self.folder.finish()

    def _check_layers(self) -> None:
        """Refuse a pattern that some layer cannot meet."""
        for name, target in self.targets.layers.items():
            with _named(name):
                target.pattern.check(self.adapter.shape(name), target.ratio)
                self._check_bias(name)

    def _check_bias(self, name: str) -> None:
        model, family = self.adapter.model, self.adapter.family
        if (
            isinstance(self.solver, BiasCompensation)
            and model.get_submodule(name).bias is None
            and not family.bias_fields
        ):
            raise ModelError(
                f"{type(model).__name__} has no bias here to hold what was removed: use method fluctuation, which adds "
                "none, or {name: refit, score: fluctuation}"
            )

    def _plan(self, ids: TokenIds | None) -> dict[str, Any]:
        """What must be the same for a resumed run to give the same bits."""
        drawn = "" if ids is None else hashlib.sha256(ids.numpy().tobytes()).hexdigest()
        recipe = {key: value for key, value in self.recipe.to_dict().items() if key not in ("out", "model")}
        return {
            "model": self.checkpoint.digests(),
            "calibration ids": drawn,
            "threads": torch.get_num_threads(),
            "versions": versions(),
            **recipe,
        }

    def _allocate(self, ids: TokenIds | None, progress: Progress) -> None:
        """Fix every layer's ratio where the allocator reads the dense model; a resumed run reads what was fixed."""
        if not isinstance(self.recipe.build_allocator(), CalibratedAllocator):
            return
        ratios = self.folder.load_document("allocation")
        if ratios is None:
            ratios = dict(read_blocks(self.weights, self.recipe, self.source, ids, progress).ratios().ratios)
            self.folder.save_document("allocation", ratios)
        self.targets = self._targets(replace(self.recipe, exempt=(), ratios=ratios))
        self._check_layers()

    def _targets(self, recipe: Recipe) -> Targets:
        plain = (
            replace(recipe, allocator="uniform")
            if isinstance(recipe.build_allocator(), CalibratedAllocator)
            else recipe
        )
        return choose_targets(self.adapter, plain, self.weights.bytes_each())

    def _start(self, stream: Stream, done: int) -> None:
        with self.weights.loaded(self.weights.outside_blocks()):
            stream.embed()
        if 0 < done < len(self.blocks):
            stream.hidden.fill(self.folder.load_hidden(done))

    def _block(self, index: int, block: Block, stream: Stream | None) -> None:
        last = index == len(self.blocks) - 1
        finished = FinishedBlock({}, {}, [], {})

        def solve(layers: Sequence[Layer], stats: Gathered) -> None:
            for layer in layers:
                if layer.name in self.targets.layers:
                    self._layer(layer, stats, finished)

        with self.weights.loaded(block.tensors()):
            if stream is None:
                for stage in block.stages():
                    solve(stage, gather(()))
            else:
                stream.run(block, self._needs, solve, last=last)
        if stream is not None and not last:
            self.folder.save_hidden(index + 1, list(stream.hidden.all()))
        self.folder.save_block(index, finished)
        self.folder.drop_hidden(index)
        self._hold_memory()

    def _needs(self, layers: Sequence[Layer]) -> Sequence[type[Statistic]] | None:
        wanted = any(layer.name in self.targets.layers for layer in layers)
        return self.streamed if wanted else None

    def _hold_memory(self) -> None:
        """Give freed memory back once a tenth over the first block's peak is held; it costs page faults."""
        self.ceiling = self.ceiling or 1.1 * peak_memory_mb()
        if resident_memory_mb() > self.ceiling:
            give_back_freed()

    def _layer(self, layer: Layer, stats: Gathered, finished: FinishedBlock) -> None:
        started = time.perf_counter()
        pattern, ratio = self.targets.layers[layer.name]
        weight = layer.weight.float()
        if Gradient in self.solver.needs:
            gradient = Gradient(self.folder.load_gradient(layer.name), samples=1)
            stats = Gathered({**stats.parts, Gradient: gradient})
        with _named(layer.name):
            solution = self.solver.solve(weight, stats, pattern, ratio)
        layer.set_weight(solution.weight)
        stored = solution.weight.to(self.saved or self.weights.dtype_of(f"{layer.name}.weight"))
        finished.weights[layer.name] = (stored.T if layer.transposed else stored).contiguous()
        finished.masks[layer.name] = pack(solution.keep)
        if solution.bias is not None:
            bias = solution.bias if layer.bias is None else layer.bias.float() + solution.bias
            layer.set_bias(bias)
            finished.biases[layer.name] = bias.to(stored.dtype)
        report = LayerReport(
            name=layer.name,
            ratio=ratio,
            sparsity=1 - int(solution.keep.sum()) / solution.keep.numel(),
            loss=solution.loss,
            weights=solution.keep.numel(),
            seconds=time.perf_counter() - started,
        )
        finished.reports.append(vars(report))
        _log.debug("%s: sparsity %.4f, loss %s", layer.name, report.sparsity, report.loss)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Put a layer's name in front of what goes wrong."""
    try:
        yield
    except SecateurError as error:
        raise type(error)(f"{name}: {error}") from error

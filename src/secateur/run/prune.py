"""prune(model, recipe, out) -> Result: the whole story, a block at a time."""

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.adapt.adapter import Adapter, Block, Layer
from secateur.adapt.source import load_tokenizer, resolve, skeleton
from secateur.calibrate.shards import Checkpoint
from secateur.calibrate.statistic import Gathered, gather
from secateur.calibrate.stream import Stream, StreamSettings
from secateur.calibrate.weights import Weights
from secateur.core.document import write_document
from secateur.core.errors import CalibrationError, InputError, SecateurError
from secateur.core.mask import pack, save_packed
from secateur.core.memory import give_back_freed, peak_memory_mb, resident_memory_mb
from secateur.core.roles import Pattern, Solver
from secateur.core.shapes import TokenIds
from secateur.export.hf import copy_companions, write_pruned
from secateur.run.checkpoint import FinishedBlock, RunFolder, storage_errors
from secateur.run.recipe import Recipe
from secateur.run.result import LayerReport, Result, versions

__all__ = ["Progress", "prune"]

Progress = Callable[[int, int], None]
_log = logging.getLogger(__name__)


def prune(
    model: str | Path,
    recipe: Recipe,
    out: str | Path,
    *,
    ids: TokenIds | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Prune a model folder, hub name, .gguf file or bundled:smollm2 into the folder `out`.

    Weights are read, solved and written one block at a time; a finished block survives
    an interruption, and `resume` goes on with the same bits. `ids` `[samples, length]`
    replaces the recipe's calibration. Raises a SecateurError with one sentence on
    anything that cannot be done; `out` then does not exist.
    """
    started = time.perf_counter()
    source = resolve(str(model))
    folder = RunFolder(Path(out))
    job = _Job(source, Checkpoint(source), recipe, folder)
    done = job.run(ids, resume=resume, progress=progress or (lambda block, blocks: None))
    layers = [LayerReport(**report) for report in job.assemble()]
    result = Result(
        out=folder.out,
        recipe=recipe.document(),
        layers=layers,
        seconds=time.perf_counter() - started,
        peak_memory_mb=peak_memory_mb(),
        resumed_blocks=done,
        calibration_tokens=job.tokens,
    )
    job.publish(result)
    return result


class _Job:
    """One run: what is opened once and shared by its steps."""

    def __init__(self, source: Path, checkpoint: Checkpoint, recipe: Recipe, folder: RunFolder) -> None:
        self.source = source
        self.recipe = recipe
        self.folder = folder
        self.adapter = Adapter(skeleton(source))
        self.blocks = self.adapter.blocks()
        self.dtype = compute_dtype(recipe)
        self.weights = Weights(checkpoint, self.adapter, self.dtype)
        self.checkpoint = checkpoint
        self.solver: Solver = recipe.solver()
        self.pattern: Pattern = recipe.shape()
        self.tokens = 0
        self.ceiling = 0.0
        self._check_layers()

    def run(self, ids: TokenIds | None, *, resume: bool, progress: Progress) -> int:
        """Solve every block that is not finished; return how many were."""
        if self.solver.needs and ids is None:
            ids = self.recipe.calibration.draw(load_tokenizer(self.source))
        with ExitStack() as stack:
            stream = stack.enter_context(self._stream(ids)) if self.solver.needs and ids is not None else None
            done = self.folder.open(self._plan(ids), resume=resume)
            if stream is not None:
                self._start(stream, done)
            for index, block in enumerate(self.blocks[done:], done):
                progress(index, len(self.blocks))
                self._block(index, block, stream)
        progress(len(self.blocks), len(self.blocks))
        return done

    def assemble(self) -> list[dict[str, Any]]:
        """Write the finished model inside the run folder, tensor by tensor; return the layers' reports."""
        target = self.folder.path / "model"
        finished = [self.folder.load_block(index).reports for index in range(len(self.blocks))]
        owner = {report["name"]: index for index, reports in enumerate(finished) for report in reports}
        held: dict[int, FinishedBlock] = {}

        def block(index: int) -> FinishedBlock:
            if index not in held:
                held.clear()
                held[index] = self.folder.load_block(index)
            return held[index]

        def replacement(name: str) -> Tensor | None:
            layer = self.weights.model_name(name).removesuffix(".weight")
            return block(owner[layer]).weights[layer] if layer in owner and name.endswith(".weight") else None

        packed = {
            name: bits
            for index in range(len(self.blocks))
            for name, bits in self.folder.load_block(index).masks.items()
        }
        shapes = {name: self._shape(name) for name in packed}
        with storage_errors(target):
            target.mkdir(exist_ok=True)
            copy_companions(self.source, target)
            write_pruned(self.checkpoint, target, replacement)
            save_packed(target / "masks.safetensors", packed, shapes)
        return [report for reports in finished for report in reports]

    def publish(self, result: Result) -> None:
        """Add result.json and move the model to its name."""
        with storage_errors(self.folder.out):
            write_document(self.folder.path / "model" / "result.json", result.document())
        self.folder.finish(self.folder.path / "model")

    def _shape(self, name: str) -> tuple[int, int]:
        rows, columns = Layer(name, self.adapter.model.get_submodule(name)).weight.shape
        return rows, columns

    def _check_layers(self) -> None:
        """Refuse a pattern that some layer cannot meet, and ratios for layers that do not exist."""
        names = [layer.name for block in self.blocks for stage in block.stages() for layer in stage]
        for name in self.recipe.allocation:
            if name not in names:
                raise InputError(f"allocation names {name!r}, which is no layer of the model, such as {names[0]!r}")
        for name in names:
            with _named(name):
                self.pattern.check(self._shape(name), self._ratio(name))

    def _ratio(self, name: str) -> float:
        return self.recipe.allocation.get(name, self.recipe.target())

    def _plan(self, ids: TokenIds | None) -> dict[str, Any]:
        """What must be the same for a resumed run to give the same bits."""
        weights = sorted((file.name, file.stat().st_size) for file in self.source.glob("*.safetensors"))
        drawn = "" if ids is None else hashlib.sha256(ids.numpy().tobytes()).hexdigest()
        recipe = {key: value for key, value in self.recipe.document().items() if key not in ("out", "model")}
        return {
            "model": [str(self.source), [list(pair) for pair in weights]],
            "calibration ids": drawn,
            "threads": torch.get_num_threads(),
            "versions": versions(),
            **recipe,
        }

    def _stream(self, ids: TokenIds) -> Stream:
        vocab = self.adapter.model.config.vocab_size
        if ids.numel() == 0:
            raise CalibrationError(f"calibration ids of shape {list(ids.shape)} are empty: need at least 1 x 2")
        if int(ids.max()) >= vocab or int(ids.min()) < 0:
            raise InputError(f"calibration ids run to {int(ids.max())}, but the vocabulary ends at {vocab - 1}")
        self.tokens = ids.numel()
        settings = StreamSettings(self.recipe.batch_tokens, int(self.recipe.memory_gb * 2**30))
        return Stream(self.adapter, ids, settings)

    def _start(self, stream: Stream, done: int) -> None:
        with self.weights.loaded(self.weights.outside_blocks()):
            stream.embed()
        if 0 < done < len(self.blocks):
            stream.hidden.fill(self.folder.load_hidden(done))

    def _block(self, index: int, block: Block, stream: Stream | None) -> None:
        last = index == len(self.blocks) - 1
        finished = FinishedBlock({}, {}, [])

        def solve(layers: Sequence[Layer], stats: Gathered) -> None:
            for layer in layers:
                self._layer(layer, stats, finished)

        with self.weights.loaded(block.tensors()):
            if stream is None:
                for stage in block.stages():
                    solve(stage, gather(()))
            else:
                stream.run(block, self.solver.needs, solve, last=last)
        if stream is not None and not last:
            self.folder.save_hidden(index + 1, list(stream.hidden.all()))
        self.folder.save_block(index, finished)
        self.folder.drop_hidden(index)
        self._hold_memory()

    def _hold_memory(self) -> None:
        """Give freed memory back once a tenth over the first block's peak is held; it costs page faults."""
        self.ceiling = self.ceiling or 1.1 * peak_memory_mb()
        if resident_memory_mb() > self.ceiling:
            give_back_freed()

    def _layer(self, layer: Layer, stats: Gathered, finished: FinishedBlock) -> None:
        started = time.perf_counter()
        ratio = self._ratio(layer.name)
        weight = layer.weight.float()
        with _named(layer.name):
            solution = self.solver.solve(weight, stats, self.pattern, ratio)
        layer.set_weight(solution.weight)
        stored = solution.weight.to(self.weights.dtype_of(f"{layer.name}.weight"))
        finished.weights[layer.name] = (stored.T if layer.transposed else stored).contiguous()
        finished.masks[layer.name] = pack(solution.keep)
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


def compute_dtype(recipe: Recipe) -> torch.dtype:
    """What forward passes compute in: float32 unless the recipe asks for bfloat16."""
    return torch.bfloat16 if recipe.dtype == "bfloat16" else torch.float32


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Put a layer's name in front of what goes wrong."""
    try:
        yield
    except SecateurError as error:
        raise type(error)(f"{name}: {error}") from error

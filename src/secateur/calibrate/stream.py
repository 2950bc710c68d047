"""Walk a model block by block, each layer seeing inputs from already pruned layers.

One forward pass in all: a block is run up to the layers of a stage, their inputs
feed the statistics, the stage is solved, and what it now puts out is replayed when
the block is run further. Only one block, its inputs and one stage's outputs are held.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from secateur.adapt.block import Answer, Block, Stage, replaced
from secateur.adapt.layer import Layer
from secateur.adapt.structure import Structure
from secateur.calibrate.statistic import Cross, Gathered, gather
from secateur.calibrate.store import Store
from secateur.core.errors import InputError, first_line
from secateur.core.protocols import Statistic
from secateur.core.shapes import Samples
from secateur.infer.blocks import block_arguments, tokens_each
from secateur.infer.calls import Calls
from secateur.infer.cold import Cold, warm_
from secateur.infer.products import Products, Read
from secateur.machine.device import HalfProducts

__all__ = ["Needs", "Reading", "Solve", "Stream", "StreamSettings"]

Needs = Callable[[Sequence[Layer]], Sequence[type[Statistic]] | None]
Solve = Callable[[Sequence[Layer], Gathered], None]
Forward = Callable[..., Any]


class StopForward(Exception):  # noqa: N818 - no error: the way to end a forward pass early
    """Ends a forward pass once the wanted inputs were seen."""


class StreamSettings(NamedTuple):
    """How activations are held and moved: tokens a batch, bytes before spilling, where to; and cold experts.

    half: whether products of forward passes are in bfloat16, and all else in float32.
    """

    batch_tokens: int = 2048
    memory: int = 4 << 30
    folder: Path | None = None
    device: torch.device = torch.device("cpu")
    cold: "Cold" = Cold()
    half: bool = False


class Stream:
    """Hidden states between blocks, and the arguments every block is called with."""

    def __init__(self, structure: Structure, samples: Samples, settings: StreamSettings) -> None:
        """Split the samples into batches; nothing is computed yet."""
        self.structure = structure
        self.settings = settings
        size = max(1, settings.batch_tokens // tokens_each(samples))  # of a batch
        self.batches = samples.split(size)
        self.hidden = self._store()
        self._calls = Calls()

    def __enter__(self) -> "Stream":
        """Use as a context that removes spill files."""
        return self

    def __exit__(self, *_: object) -> None:
        """Forget the hidden states and remove spill files."""
        self.hidden.close()

    @torch.no_grad()
    def embed(self) -> None:
        """Run what comes before the first block; its parameters must be loaded."""
        for index, batch in enumerate(self.batches):
            try:
                self._embed_batch(index, batch.to(self.settings.device))
            except (IndexError, RuntimeError, ValueError) as error:
                if not self.structure.kind.inferred:
                    raise
                what = f"{batch.shape[1]} tokens" if batch.dim() == 2 else f"{[*batch.shape[1:]]} pixels"
                raise InputError(
                    f"{type(self.structure.model).__name__} cannot be run on samples of {what} "
                    f"({first_line(error)[:200]}){': use shorter samples' if batch.dim() == 2 else ''}"
                ) from error

    @torch.no_grad()
    def run(
        self, block: Block, needs: Needs, solve: Solve, *, last: bool, beside: Mapping[str, Store] | None = None
    ) -> None:
        """Gather, solve and advance one block; the last block's outputs feed nobody.

        `needs` says what a layer's inputs are gathered for; a stage whose layers need
        nothing is run only where its outputs are stored. beside: what the dense model's layers read, by the name of
        a stage's first layer, for statistics of both.
        """
        if block.inferred:
            self._run_steps(block, needs, solve, last=last)
            return
        answers: list[tuple[Answer, Store]] = []
        end = block.stages[-1]
        with ExitStack() as stack:
            for stage in block.stages:
                wanted = needs(stage.layers)
                if wanted is None and stage.answer is None:
                    continue
                store = None
                if stage.answer is not None and not (last and stage is end):
                    store = stack.enter_context(closing(self._store()))
                gathered = gather(wanted or ())
                other = (beside or {}).get(stage.layers[0].name)
                self._inputs(block, stage.layers[0], gathered, answers, (store, other))
                solve(stage.layers, gathered)
                if stage.answer is not None and store is not None:
                    answers.append((stage.answer, store))
                    if stage is not end:
                        self._apply(stage.layers[0], store)
            if not last:
                self._advance(block, end.layers[0], answers)

    def copied(self) -> Store:
        """A store of its own with the hidden states as they are; close it."""
        store = self._store()
        store.fill([hidden.clone() for hidden in self.hidden.all()])
        return store

    @torch.no_grad()
    def put_out(self, block: Block, hidden: Store) -> None:
        """Replace a block's inputs by its outputs, in a store of hidden states."""
        for index in range(len(hidden)):
            hidden[index] = self.call(block, hidden[index], index)

    @contextmanager
    def watched(self, block: Block, hidden: Store, *, keep: bool) -> Iterator[dict[str, Store]]:
        """The same, and what every stage's first layer read meanwhile, by its name, where that is to be kept."""
        with ExitStack() as stack:
            first = [stage.layers[0].name for stage in block.stages if keep]
            read = {name: stack.enter_context(closing(self._store())) for name in first}
            with ExitStack() as hooks, torch.no_grad():
                for layer in (stage.layers[0] for stage in block.stages if keep):
                    hooks.callback(layer.module.register_forward_pre_hook(_keeping(read[layer.name])).remove)
                self.put_out(block, hidden)
            yield read

    def call(self, block: Block, hidden: Tensor, batch: int | None = None) -> Tensor:
        """The block's output, such as `[samples, length, hidden]`, for the hidden states of one batch.

        batch: which one; None where hidden states of several are mixed. Raises ModelError where a block's other
        arguments then differ.
        """
        args = self._calls.common(block.number, len(hidden)) if batch is None else self._calls[block.number, batch]
        with self._products():
            return block.call(hidden, *args)

    def _products(self) -> AbstractContextManager[Any]:
        return HalfProducts() if self.settings.half else nullcontext()

    def _run_steps(self, block: Block, needs: Needs, solve: Solve, *, last: bool) -> None:
        """Run the block up to every step of its stages, with what was solved before in place."""
        for _, step in groupby(block.stages, lambda stage: stage.step):
            wanted = [(stage, need) for stage in step if (need := needs(stage.layers)) is not None]
            if wanted:
                for stage, gathered in self._observed(block, wanted):
                    solve(stage.layers, gathered)
        if not last:
            self.put_out(block, self.hidden)

    def _observed(
        self, block: Block, wanted: Sequence[tuple[Stage, Sequence[type[Statistic]]]]
    ) -> list[tuple[Stage, Gathered]]:
        """Statistics of every stage of one step, from a run of the block on every batch."""
        reading = Reading([(stage, gather(need)) for stage, need in wanted], stop=True)
        for index in range(len(self.batches)):
            try:
                with reading.of(self.structure.model):
                    self.call(block, self.hidden[index], index)
            except StopForward:
                pass
        reading.warm_(self.settings.cold, lambda: self._pass(block))
        return reading.gathered

    def _pass(self, block: Block) -> None:
        """Run a block on every batch, for those who watch it."""
        for index in range(len(self.batches)):
            self.call(block, self.hidden[index], index)

    def _store(self) -> Store:
        settings = self.settings
        return Store(len(self.batches), limit=settings.memory, folder=settings.folder, device=settings.device)

    def _embed_batch(self, index: int, batch: Tensor) -> None:
        calls = block_arguments(self.structure.model, batch, self.structure.blocks)
        self.hidden[index] = calls[0][0]  # what enters the first block
        for number, (_, args, kwargs) in enumerate(calls):
            self._calls.keep(number, index, len(batch), (args, kwargs))
        self._calls.seal()

    def _inputs(
        self,
        block: Block,
        layer: Layer,
        gathered: Gathered,
        answers: Sequence[tuple[Answer, Store]],
        stores: tuple[Store | None, Store | None],
    ) -> None:
        """Run the block up to `layer` on every batch and gather the layer's inputs; what has an answer is replayed.

        stores: where inputs go, and what the layer read in the dense model.
        """
        into, other = stores

        def catching(index: int) -> Forward:
            def catch(x: Tensor) -> Tensor:
                gathered.update(x.reshape(-1, x.shape[-1]))
                if other is not None and Cross in gathered:
                    gathered[Cross].pair(other[index].reshape(-1, x.shape[-1]), x.reshape(-1, x.shape[-1]))
                if into is not None:
                    into[index] = x  # [samples, length, in]
                raise StopForward

            return catch

        for index in range(len(self.batches)):
            with replaced(layer.module, catching(index)), ExitStack() as stack:
                for answer, store in answers:
                    stack.enter_context(_replay(answer, store[index]))
                try:
                    self.call(block, self.hidden[index], index)
                except StopForward:
                    pass

    def _apply(self, layer: Layer, store: Store) -> None:
        """Replace a layer's stored inputs by its outputs."""
        with self._products():
            for index in range(len(store)):
                store[index] = layer.module(store[index])  # [samples, length, out], once the layer is pruned

    def _advance(self, block: Block, layer: Layer, answers: Sequence[tuple[Answer, Store]]) -> None:
        """Run the block once more with every answer replayed; of the last one the inputs of its layer are stored."""
        (*before, (end, inner)) = answers
        for index in range(len(self.batches)):
            with self._products():
                out = layer.module(inner[index])
            inner.drop(index)  # freed before the next batch needs the room
            with ExitStack() as stack:
                for answer, store in before:
                    stack.enter_context(_replay(answer, store[index]))
                stack.enter_context(_replay(end, out))
                self.hidden[index] = self.call(block, self.hidden[index], index)
            for _, store in before:
                store.drop(index)


class Reading:
    """Fills the statistics of stages that were read off what a block computes, while it runs.

    stop: end a run once each stage has read all that it will.
    """

    def __init__(self, gathered: list[tuple[Stage, Gathered]], *, stop: bool = False) -> None:
        """Nothing was read yet."""
        self.gathered = gathered
        for stage, own in gathered:
            own.tokens = 0 if stage.routed else None
        # The layers of a stage read the same tensor: the first one's inputs stand for all.
        self._places = {(stage.layers[0].tensor, stage.layers[0].index): own for stage, own in gathered}
        counts = [stage.calls for stage, _ in gathered]
        self._calls = sum(counts) if stop and all(counts) else 0  # unknown where tokens choose what reads them
        self._left = 0

    def of(self, model: nn.Module) -> Products:
        """What sees the products of one run; enter it as a context."""
        self._left = self._calls
        names = {layer.tensor for stage, _ in self.gathered for layer in stage.layers}
        return Products({name: model.get_parameter(name) for name in names}, self._seen)

    def warm_(self, cold: Cold, run: Callable[[], None]) -> None:
        """Replace the statistics of layers that too few tokens reached; `run` runs the block on every batch."""
        stages = [(stage, own) for stage, own in self.gathered if own.too_few(cold.tokens)]
        for _, own in stages:
            own.clear()
        if stages:
            warm_(stages, cold, run)

    def _seen(self, read: Read) -> None:
        self._left -= 1
        if (own := self._places.get(read.product)) is not None:
            x = read.x.reshape(-1, read.x.shape[-1])  # [tokens, in]
            own.update(x)
            own.tokens = None if own.tokens is None else own.tokens + len(x)
        if self._left == 0:
            raise StopForward


@contextmanager
def _replay(answer: Answer, out: Tensor) -> Iterator[None]:
    """Let a module of the block answer with its stored output."""

    def forward(x: Any = None, *args: Any, **kwargs: Any) -> Any:
        whole = out + args[0] if answer.adds_residual else out
        return (whole, None) if answer.pair else whole

    with ExitStack() as stack:
        for module in answer.skipped:
            stack.enter_context(replaced(module, _unchanged))
        stack.enter_context(replaced(answer.module, forward))
        yield


def _keeping(read: Store) -> Callable[[Any, tuple[Any, ...]], None]:
    """A hook that keeps what a layer reads, batch by batch."""
    count = 0

    def seen(module: Any, args: tuple[Any, ...]) -> None:
        nonlocal count
        read[count] = args[0]
        count += 1

    return seen


def _unchanged(x: Tensor) -> Tensor:
    return x

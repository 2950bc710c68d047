"""Walk a model block by block, each layer seeing inputs from already pruned layers.

One forward pass in all: a block is run up to the layers of a stage, their inputs
feed the statistics, the stage is solved, and what it now puts out is replayed when
the block is run further. Only one block, its inputs and one stage's outputs are held.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from secateur.adapt.block import Answer, Block
from secateur.adapt.layer import Layer
from secateur.adapt.structure import Structure
from secateur.calibrate.statistic import Gathered, gather
from secateur.calibrate.store import Store
from secateur.core.protocols import Statistic
from secateur.core.shapes import Hidden, TokenIds

__all__ = ["Needs", "Solve", "Stream", "StreamSettings"]

Needs = Callable[[Sequence[Layer]], Sequence[type[Statistic]] | None]
Solve = Callable[[Sequence[Layer], Gathered], None]
Forward = Callable[..., Any]


class StopForward(Exception):  # noqa: N818 - no error: the way to end a forward pass early
    """Ends a forward pass once the wanted inputs were seen."""


class StreamSettings(NamedTuple):
    """How activations are held and moved: tokens a batch, bytes before spilling, where to."""

    batch_tokens: int = 2048
    memory: int = 4 << 30
    folder: Path | None = None
    device: torch.device = torch.device("cpu")


@contextmanager
def replaced(module: nn.Module, forward: Forward) -> Iterator[None]:
    """Give one module another forward for a while."""
    module.forward = forward
    try:
        yield
    finally:
        del module.forward


class Stream:
    """Hidden states between blocks, and the arguments every block is called with."""

    def __init__(self, structure: Structure, ids: TokenIds, settings: StreamSettings) -> None:
        """Split the samples into batches; nothing is computed yet."""
        self.structure = structure
        self.settings = settings
        size = max(1, settings.batch_tokens // ids.shape[1])  # samples a batch
        self.batches = ids.split(size)
        self.hidden = self._store()
        # By block and batch size: masks and positions depend on both, and the last batch may be smaller.
        self._calls: dict[tuple[int, int], tuple[tuple[Any, ...], dict[str, Any]]] = {}

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
            self._embed_batch(index, batch.to(self.settings.device))

    @torch.no_grad()
    def run(self, block: Block, needs: Needs, solve: Solve, *, last: bool) -> None:
        """Gather, solve and advance one block; the last block's outputs feed nobody.

        `needs` says what a layer's inputs are gathered for; a stage whose layers need
        nothing is run only where its outputs are stored.
        """
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
                solve(stage.layers, self._inputs(block, stage.layers[0], wanted or (), answers, into=store))
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
            hidden[index] = self.call(block, hidden[index])

    def call(self, block: Block, hidden: Hidden) -> Hidden:
        """The block's output for one batch of hidden states."""
        args, kwargs = self._calls[block.number, len(hidden)]
        out = block.module(hidden, *args, **kwargs)
        return out[0] if isinstance(out, tuple) else out  # [samples, length, hidden]

    def _store(self) -> Store:
        settings = self.settings
        return Store(len(self.batches), limit=settings.memory, folder=settings.folder, device=settings.device)

    def _embed_batch(self, index: int, batch: Tensor) -> None:
        blocks = self.structure.blocks

        def seen(number: int) -> Forward:
            def forward(hidden: Hidden, *args: Any, **kwargs: Any) -> Any:
                if number == 0:
                    self.hidden[index] = hidden  # what enters the first block
                self._calls.setdefault((number, len(batch)), (args, kwargs))
                if number == len(blocks) - 1:
                    raise StopForward
                # Blocks hand hidden states on unread, so that every block is asked for its arguments and none computes.
                return (hidden, None) if blocks[number].returns_pair else hidden

            return forward

        with ExitStack() as stack:
            for number, block in enumerate(blocks):
                # Not hooks: a hook cannot keep the module from running.
                stack.enter_context(replaced(block.module, seen(number)))
            try:
                self.structure.body(batch, use_cache=False)
            except StopForward:
                pass

    def _inputs(
        self,
        block: Block,
        layer: Layer,
        needs: Sequence[type[Statistic]],
        answers: Sequence[tuple[Answer, Store]],
        into: Store | None = None,
    ) -> Gathered:
        """Run the block up to `layer` on every batch and gather the layer's inputs; what has an answer is replayed."""
        gathered = gather(needs)

        def catching(index: int) -> Forward:
            def catch(x: Tensor) -> Tensor:
                gathered.update(x.reshape(-1, x.shape[-1]))
                if into is not None:
                    into[index] = x  # [samples, length, in]
                raise StopForward

            return catch

        for index in range(len(self.batches)):
            with replaced(layer.module, catching(index)), ExitStack() as stack:
                for answer, store in answers:
                    stack.enter_context(_replay(answer, store[index]))
                try:
                    self.call(block, self.hidden[index])
                except StopForward:
                    pass
        return gathered

    def _apply(self, layer: Layer, store: Store) -> None:
        """Replace a layer's stored inputs by its outputs."""
        for index in range(len(store)):
            store[index] = layer.module(store[index])  # [samples, length, out], once the layer is pruned

    def _advance(self, block: Block, layer: Layer, answers: Sequence[tuple[Answer, Store]]) -> None:
        """Run the block once more with every answer replayed; of the last one the inputs of its layer are stored."""
        (*before, (end, inner)) = answers
        for index in range(len(self.batches)):
            out = layer.module(inner[index])
            inner.drop(index)  # freed before the next batch needs the room
            with ExitStack() as stack:
                for answer, store in before:
                    stack.enter_context(_replay(answer, store[index]))
                stack.enter_context(_replay(end, out))
                self.hidden[index] = self.call(block, self.hidden[index])
            for _, store in before:
                store.drop(index)


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


def _unchanged(x: Tensor) -> Tensor:
    return x

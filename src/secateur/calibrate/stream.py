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

from secateur.adapt.adapter import Adapter, Block, Layer
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

    def __init__(self, adapter: Adapter, ids: TokenIds, settings: StreamSettings) -> None:
        """Split the samples into batches; nothing is computed yet."""
        self.adapter = adapter
        self.settings = settings
        size = max(1, settings.batch_tokens // ids.shape[1])
        self.batches = ids.split(size)
        self.hidden = self._store()
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
        number = int(block.name.rsplit(".", 1)[1])
        attention_in, attention_out, ffn_in, ffn_out = block.stages()
        if needs(attention_in) is not None:
            solve(attention_in, self._inputs(block, number, attention_in[0], needs(attention_in) or ()))
        with closing(self._store()) as mixed, closing(self._store()) as inner:
            solve(attention_out, self._inputs(block, number, attention_out[0], needs(attention_out) or (), into=mixed))
            self._apply(attention_out[0], mixed)
            if needs(ffn_in) is not None:
                solve(ffn_in, self._inputs(block, number, ffn_in[0], needs(ffn_in) or (), mixed=mixed))
            gathered = self._inputs(block, number, ffn_out[0], needs(ffn_out) or (), mixed=mixed, into=inner)
            solve(ffn_out, gathered)
            if not last:
                self._advance(block, number, mixed, inner)

    def call(self, block: Block, number: int, index: int) -> Hidden:
        """The block's output for one batch of hidden states."""
        hidden = self.hidden[index]
        args, kwargs = self._calls[number, len(hidden)]
        out = block.module(hidden, *args, **kwargs)
        return out[0] if isinstance(out, tuple) else out

    def _store(self) -> Store:
        return Store(len(self.batches), limit=self.settings.memory, folder=self.settings.folder)

    def _embed_batch(self, index: int, batch: Tensor) -> None:
        blocks = self.adapter.blocks()

        def seen(number: int) -> Forward:
            def forward(hidden: Hidden, *args: Any, **kwargs: Any) -> Any:
                if number == 0:
                    self.hidden[index] = hidden
                self._calls.setdefault((number, len(batch)), (args, kwargs))
                if number == len(blocks) - 1:
                    raise StopForward
                return (hidden, None) if self.adapter.family.adds_residual else hidden

            return forward

        with ExitStack() as stack:
            for number, block in enumerate(blocks):
                stack.enter_context(replaced(block.module, seen(number)))
            try:
                self.adapter.body(batch, use_cache=False)
            except StopForward:
                pass

    def _inputs(
        self,
        block: Block,
        number: int,
        layer: Layer,
        needs: Sequence[type[Statistic]],
        mixed: Store | None = None,
        into: Store | None = None,
    ) -> Gathered:
        """Run the block up to `layer` on every batch and gather the layer's inputs."""
        gathered = gather(needs)

        def catching(index: int) -> Forward:
            def catch(x: Tensor) -> Tensor:
                gathered.update(x.reshape(-1, x.shape[-1]))
                if into is not None:
                    into[index] = x
                raise StopForward

            return catch

        for index in range(len(self.batches)):
            with replaced(layer.module, catching(index)), _replay_attention(block, mixed, index):
                try:
                    self.call(block, number, index)
                except StopForward:
                    pass
        return gathered

    def _apply(self, layer: Layer, store: Store) -> None:
        """Replace a layer's stored inputs by its outputs."""
        for index in range(len(store)):
            store[index] = layer.module(store[index])

    def _advance(self, block: Block, number: int, mixed: Store, inner: Store) -> None:
        ffn_out = block.stages()[3][0]
        for index in range(len(self.batches)):
            out = ffn_out.module(inner[index])
            inner.drop(index)
            with _replay_attention(block, mixed, index), _replay_ffn(block, out):
                self.hidden[index] = self.call(block, number, index)
            mixed.drop(index)


@contextmanager
def _replay_attention(block: Block, mixed: Store | None, index: int) -> Iterator[None]:
    """Let the block's attention answer with its stored output."""
    if mixed is None:
        yield
        return
    out = mixed[index]
    family = block.family

    def forward(*args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        return (out + args[1] if family.adds_residual else out), None

    with ExitStack() as stack:
        stack.enter_context(replaced(block.module.get_submodule(family.attention), forward))
        if family.norms:
            stack.enter_context(replaced(block.module.get_submodule(family.norms[0]), _unchanged))
        yield


@contextmanager
def _replay_ffn(block: Block, out: Tensor) -> Iterator[None]:
    """Let the block's feed-forward part answer with its stored output."""
    family = block.family

    def forward(x: Tensor, *rest: Any) -> Tensor:
        return out + rest[0] if family.adds_residual else out

    with ExitStack() as stack:
        if family.ffn is None:
            for name in family.ffn_in:
                stack.enter_context(replaced(block.module.get_submodule(name), _unchanged))
        answering = family.ffn or family.ffn_out
        stack.enter_context(replaced(block.module.get_submodule(answering), forward))
        if family.norms:
            stack.enter_context(replaced(block.module.get_submodule(family.norms[1]), _unchanged))
        yield


def _unchanged(x: Tensor) -> Tensor:
    return x

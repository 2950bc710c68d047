"""Perplexity of a checkpoint, a block in memory at a time: a quick check of what a run did to a model."""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch

from secateur.adapt.block import Block, replaced
from secateur.calibrate.stream import Stream, StreamSettings
from secateur.core.shapes import TokenIds
from secateur.evaluate.perplexity import token_losses
from secateur.storage.open_model import OpenModel
from secateur.storage.source import may_have_language_head

__all__ = ["streamed_perplexity"]


@torch.no_grad()
def streamed_perplexity(opened: OpenModel, ids: TokenIds, settings: StreamSettings | None = None) -> float | None:
    """exp of the mean loss of every next token of `[samples, length]` ids; None where it has no such head."""
    structure = opened.structure
    model: Any = structure.model
    head = _head(opened)
    if head is None:
        return None
    heads = [name for name in opened.outside_body() if name in opened]
    blocks = structure.blocks
    if blocks[0].whole:
        with opened.loaded([name for name, _ in model.named_parameters() if name in opened]):
            return _perplexity([token_losses(model, batch) for batch in ids.split(1)])
    losses: list[torch.Tensor] = []
    # What comes after the last token is not asked: where attention looks ahead, that token would change the others.
    with Stream(structure, ids[:, :-1], settings or StreamSettings()) as stream, ExitStack() as stack:
        stack.enter_context(opened.loaded([*opened.outside_blocks(), *heads]))
        stream.embed()
        for block in blocks:
            with opened.loaded(block.tensors()):
                for index in range(len(stream.batches)):
                    stream.hidden[index] = stream.call(block, stream.hidden[index], index)
        if head.weight.is_meta:
            # The head is not stored: it shares the embeddings' weight, which was put in anew when they were loaded.
            meta, head.weight = head.weight, model.get_input_embeddings().weight
            stack.callback(setattr, head, "weight", meta)
        for index, batch in enumerate(ids.split(len(stream.batches[0]))):
            with ExitStack() as blind:
                for block in blocks:
                    answer = _answer(block, stream.hidden[index])
                    blind.enter_context(replaced(block.module, answer))
                losses.append(token_losses(model, batch.to(opened.device)).flatten())  # [samples * (length - 1)]
    return _perplexity(losses)


def _head(opened: OpenModel) -> Any:
    """The language-model head of a checkpoint that holds all of it, save what is tied to its embeddings; else None."""
    model: Any = opened.structure.model
    head, config = model.get_output_embeddings(), model.config
    if head is None or not may_have_language_head(config):
        return None
    own = [name for name, weight in model.named_parameters(remove_duplicate=False) if weight is head.weight]
    tied = getattr(config, "tie_word_embeddings", False) or any(name in opened for name in own)
    rest = [name for name in opened.outside_body() if name not in own]
    return head if tied and all(name in opened for name in rest) else None


def _perplexity(losses: Sequence[torch.Tensor]) -> float:
    mean = torch.cat([loss.flatten() for loss in losses]).double().mean()
    return math.exp(min(float(mean), 700.0))


def _answer(block: Block, hidden: torch.Tensor) -> Callable[..., Any]:
    """A block that puts out what the last one did, for as many tokens as it is asked for."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        asked = block.split(args, kwargs)[0].shape  # [samples, tokens, hidden], or with another dimension anywhere
        return block.answer(hidden[tuple(slice(size) for size in asked)])

    return forward

"""Blocks of any model that reads token ids or pictures: repeated modules of its body, as they run, each checked."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.adapt.block import Block, replaced
from secateur.adapt.example import picture_shape
from secateur.core.seed import generator
from secateur.core.shapes import Samples

__all__ = ["bare_blocks", "block_arguments", "probe_samples", "reads_pictures", "run_body", "tokens_each"]

_SAMPLES, _TOKENS = 2, 12
_PATCH = 16 * 16  # pixels that count as a token


class _Call(NamedTuple):
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any


@dataclass(frozen=True)
class _Found:
    """A module of a list: its name, and every call it got."""

    name: str
    module: nn.Module
    calls: list[_Call]


def reads_pictures(model: PreTrainedModel) -> bool:
    """Whether a model is called with pixels alone."""
    body: Any = model.base_model
    return bool(model.main_input_name == "pixel_values" and "input_ids" not in signature(body.forward).parameters)


def probe_samples(model: PreTrainedModel, samples: int = _SAMPLES) -> Samples:
    """A few samples of what a model is called with, the same for every model of one vocabulary or size of pictures."""
    if reads_pictures(model):
        shape = samples, *picture_shape(model.config)
        return torch.rand(shape, generator=generator(0, "probe", *shape))
    table: Any = model.get_input_embeddings()
    vocab = int(table.weight.shape[0])
    special = min(8, vocab // 2)  # the first ids may pad, or stand for pictures
    return torch.randint(special, vocab, (samples, _TOKENS), generator=generator(0, "probe", vocab))


def tokens_each(samples: Samples) -> int:
    """Tokens of one sample: its length, or patches of 16 x 16 pixels."""
    return samples.shape[1] if samples.dim() == 2 else max(1, samples[0, 0].numel() // _PATCH)


def run_body(model: PreTrainedModel, samples: Samples) -> None:
    """Run a model without its head on token ids or pixels, and without a cache where it has one."""
    body: Any = model.base_model
    if reads_pictures(model):
        body(pixel_values=samples.to(body.dtype))
        return
    takes = signature(body.forward).parameters
    cached = "use_cache" in takes or any(one.kind is one.VAR_KEYWORD for one in takes.values())
    body(samples, **({"use_cache": False} if cached else {}))


def bare_blocks(model: PreTrainedModel, samples: Samples) -> tuple[Block, ...]:
    """Blocks without stages, in forward order; the model's parameters must have values.

    They are the children of the largest outermost module list, where calling them one after another gives what the
    model computes. Else the body is the only block.
    """
    found = _largest(model, samples)
    blocks = tuple(_block(number, each) for number, each in enumerate(found))
    if blocks and _chains(model, samples, blocks, [each.calls[0] for each in found]):
        return blocks
    body = model.base_model
    name = next(name for name, module in model.named_modules() if module is body)
    return (Block(name, 0, body, (), (), inferred=True, whole=True),)


def _largest(model: PreTrainedModel, samples: Samples) -> list[_Found]:
    """Members of the largest module list that run, in the order they ran; none where one runs more than once."""
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    ran: dict[str, _Found] = {}
    with ExitStack() as stack:
        for place, listed in lists.items():
            for number, member in enumerate(listed):
                stack.callback(_watch(f"{place}.{number}", member, ran).remove)
        run_body(model, samples)
    places = {name.rpartition(".")[0] for name in ran}
    outer = [place for place in places if not any(place.startswith(f"{other}.") for other in places)]
    if not outer:
        return []
    if reads_pictures(model) and sum(_has_matrix(lists[place]) for place in outer) > 1:
        return []  # stages that are lists of their own: no one list has all matrices
    largest = max(outer, key=lambda place: sum(value.numel() for value in lists[place].parameters()))
    members = [each for name, each in ran.items() if name.rpartition(".")[0] == largest]
    return members if all(len(each.calls) == 1 for each in members) else []


def _has_matrix(module: nn.Module) -> bool:
    return any(isinstance(each, nn.Linear) for each in module.modules())


def _watch(name: str, member: nn.Module, ran: dict[str, _Found]) -> Any:
    def seen(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        ran.setdefault(name, _Found(name, module, [])).calls.append(_Call(args, kwargs, out))

    return member.register_forward_hook(seen, with_kwargs=True)


def _block(number: int, found: _Found) -> Block:
    (call,) = found.calls
    takes = None
    if not call.args:
        shaped = Block.hidden(call.out).shape if _has_tensor(call.out) else None
        fits = [name for name, value in call.kwargs.items() if isinstance(value, Tensor) and value.shape == shaped]
        takes = next(iter(fits), "hidden_states")
    pair = isinstance(call.out, tuple | list)
    return Block(found.name, number, found.module, (), (), returns_pair=pair, takes=takes, inferred=True)


def _has_tensor(out: Any) -> bool:
    while isinstance(out, tuple | list) and out:
        out = out[0]
    return isinstance(out, Tensor)


def _chains(model: PreTrainedModel, samples: Samples, blocks: Sequence[Block], calls: Sequence[_Call]) -> bool:
    """Whether the blocks give what the model computes when each gets the last one's hidden states.

    The other arguments are those of a run in which no block computes, as calibration takes them.
    """
    try:
        taken = block_arguments(model, samples, blocks)
        hidden = taken[0][0]
        for block, (_, args, kwargs), call in zip(blocks, taken, calls, strict=True):
            hidden = block.call(hidden, args, kwargs)
            if not torch.equal(hidden, Block.hidden(call.out)):  # NaN is not equal either
                return False
    except Exception:  # whatever a block of unknown kind raises here, it cannot be run by itself
        return False
    return True


class _Last(Exception):  # noqa: N818 - no error: the last block was reached
    """Ends a run once every block was asked for."""


def block_arguments(model: PreTrainedModel, samples: Samples, blocks: Sequence[Block]) -> list[Any]:
    """The first hidden states of every block's call, and its other arguments, from a run in which none computes."""
    taken: list[Any] = []
    with ExitStack() as stack:
        for block in blocks:

            def passed(*args: Any, block: Block = block, **kwargs: Any) -> Any:
                taken.append(block.split(args, kwargs))
                if block is blocks[-1]:
                    raise _Last
                return block.answer(taken[-1][0])

            stack.enter_context(replaced(block.module, passed))
        try:
            run_body(model, samples)
        except _Last:
            pass
    return taken

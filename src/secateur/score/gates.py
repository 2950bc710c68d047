"""Gates on heads: multiply every head's output, and read the loss's derivative with respect to each gate."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateur.adapt.attention import Attention, Kind
from secateur.core.errors import CalibrationError

__all__ = ["LEVELS", "Batch", "Loss", "gate_gradients", "gated", "query_positions"]

Batch = Mapping[str, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]
LEVELS = ("token", "example")
Gate = Float[Tensor, "_"]  # one for every head; attentions differ in how many


@contextmanager
def gated(attentions: Sequence[Attention], gates: Sequence[Gate]) -> Iterator[None]:
    """Every head's output times its gate, before the output projection; all ones is the model itself."""
    with ExitStack() as stack:
        for attention, gate in zip(attentions, gates, strict=True):
            if not bool((gate == 1).all()):
                wide = gate.repeat_interleave(attention.width)  # [heads] -> [heads * width]
                hook = attention.output.module.register_forward_pre_hook(partial(_scale, wide))
                stack.callback(hook.remove)
        yield


def _scale(wide: Tensor, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (args[0] * wide.to(args[0]), *args[1:])


def gate_gradients(
    model: nn.Module,
    attentions: Sequence[Attention],
    batches: Iterable[Batch],
    loss: Loss,
    *,
    gates: Sequence[Gate] | None = None,
    level: str = "token",
) -> list[Gate]:
    """Mean over samples of |d loss / d gate| for every head, one backward pass a batch.

    Formula: I_h = E_x |dL(x) / dgate_h| [Michel et al. 2019, section 4.1]

    loss: summed over the samples of a batch. level: where the absolute value is taken,
    at every token's position, as the authors' code does, or once an example, as their
    formula says. Padded positions count nothing. No weight gets a gradient: what flows
    back are activations, down to the first attention. Raises CalibrationError on NaN,
    inf, or no batch.
    """
    sums = [torch.zeros(attention.heads, dtype=torch.float64) for attention in attentions]
    gates = gates or [torch.ones(attention.heads) for attention in attentions]
    samples = 0
    # Gradients of weights would take as much memory as the weights, and nobody reads them.
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    try:
        for batch in batches:
            count = len(next(iter(batch.values())))
            samples += count
            positions = query_positions(batch, {attention.kind for attention in attentions})
            slopes: list[list[Tensor]] = [[] for _ in attentions]  # of every call: layers may share an attention
            with ExitStack() as stack:
                for own, attention, gate in zip(slopes, attentions, gates, strict=True):
                    note = partial(_note, own, (attention.heads, attention.width), positions.get(attention.kind))
                    hook = partial(_watch, note, gate.repeat_interleave(attention.width))
                    stack.callback(attention.output.module.register_forward_pre_hook(hook).remove)
                loss(model, batch).backward()
            for total, own in zip(sums, slopes, strict=True):
                if own:
                    total += _sizes(own, level, count).to(total)
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
    if samples == 0 or not all(bool(torch.isfinite(total).all()) for total in sums):
        raise CalibrationError("importance of heads is missing or not finite: there was no batch, or the loss is NaN")
    return [total / samples for total in sums]


def _watch(note: Callable[[Tensor, Tensor], None], wide: Tensor, module: nn.Module, args: Any) -> tuple[Any, ...]:
    """Let the gradient of a head's gated output pass by; a gate's own is its product with the output."""
    context = args[0]
    out = context if bool((wide == 1).all()) else context * wide.to(context)
    if not out.requires_grad:
        out = out.detach().requires_grad_()  # the first attention: nothing before it carries a gradient
    out.register_hook(partial(note, context.detach()))
    return (out, *args[1:])


def _note(
    slopes: list[Tensor], shape: tuple[int, int], positions: Tensor | None, context: Tensor, gradient: Tensor
) -> None:
    derivative = (context * gradient).unflatten(-1, shape).sum(-1)  # [batch, seq, heads]
    if positions is not None and positions.shape == derivative.shape[:2]:
        derivative = derivative * positions[..., None]  # [batch, seq, 1]: padding counts nothing
    slopes.append(derivative)


def _sizes(slopes: Sequence[Tensor], level: str, samples: int) -> Tensor:
    """Absolute values of what all calls of one attention gave, summed over samples, `[heads]`."""
    derivative = torch.stack(list(slopes)).sum(dim=0)
    if level == "example":
        # Summed before the absolute value: at this level positions of one example may cancel. Windows of a picture
        # (Swin) come as sequences of their own, one sample's after another's.
        derivative = derivative.reshape(samples, -1, derivative.shape[-1]).sum(1, keepdim=True)
    return derivative.abs().sum((0, 1))


def query_positions(batch: Batch, kinds: set[Kind]) -> dict[Kind, Tensor]:
    """Which query positions are no padding, `[batch, seq]`; a cross attention's are the decoder's."""
    mask, labels = batch.get("attention_mask"), batch.get("labels")
    if "cross" in kinds:
        target = None if labels is None else labels != -100
        places: dict[Kind, Tensor | None] = {"encoder": mask, "decoder": target, "cross": target}
    else:
        places = {"encoder": mask, "decoder": mask}
    return {kind: place for kind, place in places.items() if place is not None}

"""Masks of a whole model, learned end to end."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateur.adapt.structure import Structure
from secateur.core.shapes import TokenIds
from secateur.evaluate.perplexity import token_losses
from secateur.machine.device import autocasting
from secateur.machine.ranks import place
from secateur.masks.maskllm import LearnedMasks, MaskedTokens, MaskSettings
from secateur.storage.run_folder import RunFolder

__all__ = ["Look", "learn_whole"]


@dataclass(frozen=True)
class Look:
    """What is seen between steps: mean held-out loss under the likeliest masks (nats a token), certainty of the
    masks (0..1), share of blocks whose mask is no longer the prior's.
    """

    step: int
    held: float
    certainty: float
    changed: float


class _Best:
    """The likeliest masks of the look with the least held-out loss, and every look so far."""

    def __init__(self, masks: LearnedMasks) -> None:
        self.prior = masks.numbers()
        self.chosen = self.prior
        self.looks: list[Look] = []

    def look(self, step: int, held: float, masks: LearnedMasks) -> Look:
        numbers = masks.numbers()
        blocks = sum(own.numel() for own in numbers.values())
        changed = sum(int((own != self.prior[name]).sum()) for name, own in numbers.items())
        if not self.looks or held < min(look.held for look in self.looks):
            self.chosen = numbers
        self.looks.append(Look(step, held, masks.certainty(), changed / blocks))
        return self.looks[-1]

    def state(self) -> dict[str, Tensor]:
        rows = [[look.step, look.held, look.certainty, look.changed] for look in self.looks]
        state = {"looks": torch.tensor(rows, dtype=torch.float64)}
        for kind, numbers in (("prior", self.prior), ("chosen", self.chosen)):
            state |= {f"{kind}/{name}": own for name, own in numbers.items()}
        return state

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        self.looks = [Look(int(row[0]), *row[1:]) for row in tensors["looks"].tolist()]
        for kind in ("prior", "chosen"):
            own = {name: tensors[f"{kind}/{name}"].to(now.device) for name, now in self.prior.items()}
            setattr(self, kind, own)


def learn_whole(
    structure: Structure,
    masks: LearnedMasks,
    data: tuple[Tensor, Tensor],
    folder: RunFolder,
    run: tuple[int, bool],
    progress: Callable[[int, int, Look | None], None],
) -> tuple[dict[str, Tensor], list[Look], list[float]]:
    """Train every layer's mask on the next token; return the best masks, every look, the loss of every step.

    data: windows to train on, `[steps * batch, length]`, and held-out ones. run: looks over the run, and whether
    products are taken in bfloat16. A look saves the state that a resumed run goes on from.
    """
    ids, held = data
    looks, half = run
    settings, model = masks.settings, structure.model
    best = _Best(masks)
    loop = masks.loop(MaskedTokens(model, masks, half=half), others={"best": best})
    every = max(1, settings.steps // looks)
    with masks.attached():
        saved = folder.load_state()
        if saved is not None:
            loop.load_state(*saved)
        else:
            best.look(0, _held_out(model, masks, held, half=half), masks)
            folder.save_state(loop.state(), loop.log)
        while (number := len(loop.losses)) < settings.steps:
            progress(number, settings.steps, best.looks[-1])
            loop.step(*_batches(ids, number, settings))
            if (number + 1) % every == 0 or number + 1 == settings.steps:
                best.look(number + 1, _held_out(model, masks, held, half=half), masks)
                folder.save_state(loop.state(), loop.log)
    progress(settings.steps, settings.steps, best.looks[-1])
    return {name: keep.cpu() for name, keep in masks.keep(best.chosen).items()}, best.looks, loop.losses


def _batches(ids: TokenIds, number: int, settings: MaskSettings) -> list[Any]:
    """This process's part of a step's windows."""
    whole = ids[number * settings.batch : (number + 1) * settings.batch]
    rank, count = place()
    return [whole[rank::count]]


@torch.no_grad()
def _held_out(model: Any, masks: LearnedMasks, held: TokenIds, *, half: bool) -> float:
    size = masks.settings.batch
    with masks.settled(), autocasting(model.device, half=half):
        losses = [token_losses(model, part.to(model.device)).flatten() for part in held.split(size)]
    return float(torch.cat(losses).double().mean())

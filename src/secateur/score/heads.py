"""Scores of heads, and which go first: normalised gate gradients, magnitudes, chance (Michel et al. 2019)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from secateur.core.errors import InputError
from secateur.core.seed import generator
from secateur.core.shapes import Weight

__all__ = ["HeadLayout", "head_magnitude", "head_noise", "normalise_heads", "remove_heads"]

Heads = Float[Tensor, "_"]  # one for every head; attentions differ in how many
Keep = Bool[Tensor, "_"]


@dataclass(frozen=True)
class HeadLayout:
    """What goes together in one attention: runs of `shared` heads have one KV head.

    unit: kv_groups removes whole runs, heads one head of every run (with nothing shared,
    one head), none nothing.
    """

    heads: int
    shared: int = 1
    unit: str = "heads"

    def units(self, score: Heads, keep: Keep) -> list[tuple[float, tuple[int, ...]]]:
        """Score and heads of what can still go, cheapest first; ties by position."""
        runs = torch.arange(self.heads).reshape(-1, self.shared)
        if self.unit == "heads" and self.shared > 1:
            # Grouped queries stay balanced: each unit takes the cheapest head left in every run.
            ranked = [sorted((int(h) for h in run if keep[h]), key=lambda h: (float(score[h]), h)) for run in runs]
            groups = [tuple(sorted(group)) for group in zip(*ranked, strict=True)]
        elif self.unit == "none":
            groups = []
        else:
            groups = [tuple(run.tolist()) for run in runs if bool(keep[run].all())]
        scored = [(sum(float(score[h]) for h in group), group) for group in groups]
        return sorted(scored)


def normalise_heads(scores: Sequence[Heads]) -> list[Heads]:
    """Every layer's scores over their L2 norm, so that layers compare; a dead layer stays zero.

    Formula: I_h / sqrt(sum_h' I_h'^2) [Michel et al. 2019, section 4.1]
    """
    return [score / (score.norm() + 1e-20) for score in scores]  # the least positive sum: 0 / 0 is NaN


def head_magnitude(weight: Weight, width: int) -> Heads:
    """The size of every head's columns in the output projection.

    Formula: S_h = ||W_O[:, h]||_2 [a baseline]
    """
    return weight.float().unflatten(1, (-1, width)).norm(dim=(0, 2))  # [out, heads, width] -> [heads]


def head_noise(layouts: Sequence[HeadLayout], seed: int) -> list[Heads]:
    """A score by chance."""
    stream = generator(seed, "heads", "random")
    return [torch.rand(layout.heads, generator=stream) for layout in layouts]


def remove_heads(
    scores: Sequence[Heads], layouts: Sequence[HeadLayout], keep: Sequence[Keep], count: int, *, min_heads: int = 0
) -> list[Keep]:
    """The heads that stay after the cheapest units went, as many as fit in `count` heads removed in all.

    keep: what earlier rounds left; heads they removed are part of the count. min_heads:
    heads every attention keeps. Raises InputError when that many cannot go.
    """
    after = [kept.clone() for kept in keep]
    gone = sum(int((~kept).sum()) for kept in after)  # earlier rounds count too
    units = [
        (score, place, group)
        for place, layout in enumerate(layouts)
        for score, group in layout.units(scores[place], keep[place])
    ]
    for _, place, group in sorted(units):
        if gone + len(group) > count:
            continue
        if int(after[place].sum()) - len(group) >= min_heads:
            after[place][list(group)] = False
            gone += len(group)
    smallest = min((len(group) for _, _, group in units), default=0)
    if count - gone >= max(smallest, 1):
        raise InputError(f"{count} heads cannot go, only {gone}: every attention keeps at least {min_heads}")
    return after

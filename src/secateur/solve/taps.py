"""Taps of depthwise convolutions: which of a kernel's k x k weights go, and what the others become."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from secateur.core.errors import InputError

__all__ = ["SharedTaps", "eliminate_taps", "of_channels", "refit_taps", "share_taps", "smallest_taps"]

Taps = Float[Tensor, "channels taps"]
Grams = Float[Tensor, "channels taps taps"]
_RUN = 16  # channels that the blocked runtime takes at once
_TURNS = 10


class SharedTaps(NamedTuple):
    """The order in which channels should stand, and the taps that each run of them keeps: `[runs, taps]`."""

    order: Int[Tensor, " channels"]
    keep: Bool[Tensor, "runs taps"]


def smallest_taps(scores: Taps, ratio: float, *, tile: int | None = None) -> Bool[Tensor, "channels taps"]:
    """What stays when the lowest scores of a layer go: of all of it, or as many of every `tile` channels.

    Formula: keep (c, t) unless |w_ct| is among the ratio that is smallest [DCP, and BWT by tiles; Park et al. 2024]

    Of equal scores the later go first. Raises InputError on a ratio outside 0..1.
    """
    if not 0 <= ratio <= 1:
        raise InputError(f"the ratio of taps to remove should lie in 0..1, not {ratio}")
    keep = torch.ones_like(scores, dtype=torch.bool)
    for part, own in zip(scores.split(tile or len(scores)), keep.split(tile or len(scores)), strict=True):
        flat = part.flatten()
        stays = len(flat) - round(ratio * len(flat))
        order = flat.argsort(descending=True, stable=True)
        own.view(-1)[order[stays:]] = False  # a view of `keep`
    return keep


def share_taps(scores: Taps, kept: int, run: int = _RUN) -> SharedTaps:
    """Runs of channels that keep the same taps, so that the sum of the scores that stay is high.

    Formula: max over order, T_r of sum_r sum_{c in r} sum_{t in T_r} s_ct, |T_r| = kept [ours]

    By turns every run takes its best taps, and channels are assigned to runs (Kuhn 1955); no turn lowers the sum, so it
    is never below that of channels as they stand. The best of all orders is not promised. The last run may be short.
    """
    channels, taps = scores.shape
    if not 0 <= kept <= taps:
        raise InputError(f"a kernel of {taps} taps cannot keep {kept}")
    value = scores.double().cpu()
    place = torch.arange(channels) // run  # the run of every place
    order = torch.arange(channels)
    keep, best = _best_taps(value, place, kept)
    starts = [order, _by_likeness(value, kept)] if channels > run and 0 < kept < taps else []
    for start in starts:
        now, last = start, -1.0
        for _ in range(_TURNS):
            own, total = _best_taps(value[now], place, kept)
            if total > best:
                order, keep, best = now, own, total
            if total <= last:
                break
            last = total
            gain = value @ own.double().T  # of every channel in every run
            _, columns = linear_sum_assignment(gain[:, place].numpy(), maximize=True)
            now = torch.from_numpy(np.argsort(columns, kind="stable"))
    return SharedTaps(order, keep)


def _best_taps(value: Tensor, place: Tensor, kept: int) -> tuple[Tensor, float]:
    """The taps of the highest sum in every run, and what they come to."""
    sums = value.new_zeros(int(place[-1]) + 1, value.shape[1]).index_add_(0, place, value)
    chosen = sums.argsort(dim=1, descending=True, stable=True)[:, :kept]
    keep = torch.zeros_like(sums, dtype=torch.bool).scatter_(1, chosen, value=True)
    return keep, float(sums[keep].sum())


def _by_likeness(value: Tensor, kept: int) -> Tensor:
    """Channels sorted by the taps that each would keep alone, the most common sets first."""
    own = value.argsort(dim=1, descending=True, stable=True)[:, :kept]
    sets = [tuple(sorted(taps)) for taps in own.tolist()]
    common = {taps: sets.count(taps) for taps in set(sets)}
    return torch.tensor(sorted(range(len(sets)), key=lambda channel: (-common[sets[channel]], sets[channel])))


def eliminate_taps(weight: Taps, gram: Grams, kept: int, run: int = _RUN, *, damp: float = 0.01) -> Bool[Tensor, "r t"]:
    """The taps that every run of channels keeps, `[runs, taps]`: one after another the cheapest goes.

    Formula: error of tap t = sum_{c in r} w_ct^2 / [H_c^-1]_tt, then w_c -= w_ct H_c^-1[t] / [H_c^-1]_tt [optimal brain
    surgeon, Hassibi & Stork 1993, summed over a run]

    gram: mean of x x^T of what each channel's taps read. Exact for one tap, greedy for several.
    """
    channels, taps = weight.shape
    runs = -(-channels // run)
    own = weight.new_zeros(runs * run, taps).double()
    own[:channels] = weight.double()
    inverse = torch.eye(taps).double().repeat(runs * run, 1, 1)
    inverse[:channels] = torch.linalg.inv(_damped(gram, damp))
    own, inverse = own.reshape(runs, run, taps), inverse.reshape(runs, run, taps, taps)
    keep = torch.ones(runs, taps, dtype=torch.bool)
    every = torch.arange(runs)
    for _ in range(taps - kept):
        diagonal = inverse.diagonal(dim1=2, dim2=3)
        errors = (own.square() / diagonal).sum(dim=1).masked_fill(~keep, torch.inf)
        goes = errors.argmin(dim=1)
        keep[every, goes] = False
        column = inverse[every, :, :, goes]  # [runs, run, taps]
        pivot = diagonal[every, :, goes].unsqueeze(2)
        own = own - own[every, :, goes].unsqueeze(2) * column / pivot
        inverse = inverse - column.unsqueeze(3) * column.unsqueeze(2) / pivot.unsqueeze(3)
        inverse[every, :, goes, goes] = 1.0  # of a tap that is gone; never read again
    return keep


def of_channels(runs: Bool[Tensor, "runs taps"], channels: int, run: int = _RUN) -> Bool[Tensor, "channels taps"]:
    """What each of so many channels keeps, where runs of them keep the same."""
    return runs.repeat_interleave(run, dim=0)[:channels]


def refit_taps(weight: Taps, gram: Grams, keep: Bool[Tensor, "channels taps"], *, damp: float = 0.01) -> Taps:
    """The kept taps of every channel, so that its output changes least.

    Formula: min over w' of (w - w') H_c (w - w')^T, w' zero where nothing is kept [least squares]

    Channels that keep all their taps, or whose inputs are all zero, keep their weights.
    """
    mask = keep.double()
    damped = _damped(gram, damp)
    outside = torch.diag_embed(1 - mask)
    system = damped * mask.unsqueeze(1) * mask.unsqueeze(2) + outside
    right = (damped @ weight.double().unsqueeze(2)).squeeze(2) * mask
    solved = torch.linalg.solve(system, right.unsqueeze(2)).squeeze(2) * mask
    return torch.where(keep.all(dim=1, keepdim=True), weight.double(), solved).to(weight.dtype)


def _damped(gram: Grams, damp: float) -> Tensor:
    """A share of the mean diagonal added; the identity where a channel's inputs are all zero."""
    own = gram.double()
    mean = own.diagonal(dim1=1, dim2=2).mean(dim=1)
    added = torch.where(mean > 0, damp * mean, torch.ones_like(mean))
    return own + added[:, None, None] * torch.eye(own.shape[1]).double()

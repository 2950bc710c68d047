"""What can be said of a ticket: a bound that is proved, and the largest error that was found."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from secateur.core.seed import generator
from secateur.lottery.error_budget import norm_of, propagate
from secateur.lottery.target import Target
from secateur.lottery.ticket import Ticket

__all__ = ["Certificate", "certify", "worst_found"]

_STEPS, _DRAWN, _AXES, _STARTS = 100, 2048, 1024, 256
_LONGEST, _SHORTEST = 0.2, 0.001  # steps, as shares of the radius


class Certificate(NamedTuple):
    """bound: no input of the ball has a larger error, by the weights as they came out, if float64 were exact.

    found: the largest error met on random inputs, coordinate axes and gradient ascent. rounding: the largest difference
    between the pruned network, run with its intermediate neurons, and its products.
    """

    eps: float
    bound: float
    found: float
    rounding: float
    missing: int

    @property
    def holds(self) -> bool:
        """Whether the error is proved to be eps or less."""
        return self.bound <= self.eps


def certify(target: Target, ticket: Ticket, *, rows: int = 16) -> Certificate:
    """Bound and measure a ticket's error. rows: inputs that run through the pruned network itself.

    Formula: bound = e_L for d_l = |(E+, E-)|, E+ = W+ - W, E- = W- - W [ours]

    The bound puts the errors of both sides of zero next to each other: |E+ x+ + E- x-| <= |(E+, E-)| |x|.
    """
    lottery, norm = ticket.plan.lottery, norm_of(ticket.plan.lottery.norm)
    errors = []
    for number in range(len(ticket.masks)):
        matrix = np.column_stack([target.weights[number], target.biases[number]])
        sides = [slope - matrix for slope in ticket.slopes(number)]  # [out, in + 1]
        errors.append(norm.matrix(_beside(sides, lottery.norm)))
    product = ticket.product()
    inputs = _inside(target.sizes[0], rows, ticket)
    rounding = float(np.abs(ticket(inputs) - product(inputs)).max())
    bound = propagate(ticket.plan.norms, errors, lottery.radius, norm)
    return Certificate(lottery.eps, bound, worst_found(target, product, ticket), rounding, sum(ticket.missing))


def worst_found(target: Target, product: Target, ticket: Ticket) -> float:
    """The largest error of the output that gradient ascent finds in the ball, from random inputs and the axes.

    Formula: max_x |F(x) - G(x)|, x += s R (slope + noise), put back into the ball [projected gradient ascent]

    Steps go up and a little aside, ever shorter, from the worst inputs of those drawn, and are taken back where the
    error falls: it has ridges, since ReLU bends the target and its copy in slightly different places.
    """
    lottery, norm = ticket.plan.lottery, norm_of(ticket.plan.lottery.norm)
    count = target.sizes[0]
    starts = np.vstack([_inside(count, _DRAWN, ticket), _along_axes(count, ticket)])
    errors = norm.vectors(target(starts) - product(starts))
    x = moved = torch.from_numpy(starts[np.argsort(-errors, kind="stable")[:_STARTS]])
    best, slopes = torch.zeros(len(x), dtype=torch.float64), torch.zeros_like(x)
    nets, drawn = (target.to_sequential(), product.to_sequential()), generator(ticket.seed, "ascent")
    for share in np.geomspace(_LONGEST, _SHORTEST, _STEPS):
        moved = moved.detach().requires_grad_()  # a new graph every step, or memory would grow
        sizes = norm.size(nets[0](moved) - nets[1](moved))
        slope = torch.autograd.grad(sizes.sum(), moved)[0]
        better = sizes.detach() >= best
        best = torch.where(better, sizes.detach(), best)  # [starts]
        x, slopes = (torch.where(better[:, None], *pair) for pair in ((moved.detach(), x), (slope, slopes)))
        aside = torch.randn(x.shape, generator=drawn, dtype=torch.float64)
        step = norm.steepest(slopes) + norm.steepest(aside)
        moved = torch.from_numpy(_into_ball((x + share * lottery.radius * step).numpy(), ticket))
    return float(best.max())


def _beside(sides: Sequence[Float[np.ndarray, "out in_"]], norm: str) -> Float[np.ndarray, "out all_"]:
    """Both sides' errors as one matrix; by row sums an input has one sign, so the larger of each pair is enough."""
    if len(sides) == 1:
        return sides[0]
    one, other = sides[0], sides[1][:, :-1]  # the constant is never negative
    if norm == "row-sum":
        return np.column_stack([np.maximum(np.abs(one[:, :-1]), np.abs(other)), one[:, -1]])
    return np.hstack([one, other])


def _inside(count: int, rows: int, ticket: Ticket) -> Float[np.ndarray, "rows inputs"]:
    """Inputs in the ball, directions drawn, every other one on its edge and the rest anywhere between."""
    drawn = torch.randn(rows, count, generator=generator(ticket.seed, "certify"), dtype=torch.float64).numpy()
    drawn = drawn if ticket.plan.lottery.signed else np.abs(drawn)
    size = norm_of(ticket.plan.lottery.norm).vectors(drawn)[:, None]
    lengths = np.where(np.arange(rows) % 2, 1.0, np.linspace(0, 1, rows))[:, None]
    return ticket.plan.lottery.radius * lengths * drawn / np.maximum(size, 1e-300)


def _along_axes(count: int, ticket: Ticket) -> Float[np.ndarray, "rows inputs"]:
    """The ends of the ball's axes, of a thousand of them where there are more."""
    axes = np.linspace(0, count - 1, min(count, _AXES)).astype(int)
    ends = np.zeros((len(axes), count))
    ends[np.arange(len(axes)), axes] = ticket.plan.lottery.radius
    return np.vstack([ends, -ends]) if ticket.plan.lottery.signed else ends


def _into_ball(x: Float[np.ndarray, "rows inputs"], ticket: Ticket) -> Float[np.ndarray, "rows inputs"]:
    lottery = ticket.plan.lottery
    x = x if lottery.signed else np.maximum(x, 0.0)
    if lottery.norm == "row-sum":
        return np.clip(x, -lottery.radius, lottery.radius)
    return x * np.minimum(1.0, lottery.radius / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300))

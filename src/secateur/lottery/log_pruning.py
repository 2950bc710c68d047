"""The construction: draw the random network, choose what every target weight keeps, input by input."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from secateur.core.errors import InputError
from secateur.lottery.distributions import Places
from secateur.lottery.plan import LayerPlan, Plan
from secateur.lottery.random_weights import Stream, streams
from secateur.lottery.target import Target
from secateur.lottery.ticket import LayerMask, Ticket

__all__ = ["find_ticket"]


def find_ticket(
    target: Target, plan: Plan, seed: int = 0, *, progress: Callable[[int, int], None] | None = None
) -> Ticket:
    """The masks that make the random network of this seed and plan approximate the target.

    What a pool does not hold is counted in `missing` and left out, never replaced. Memory grows with the kept edges.
    progress is called with inputs done of all. Raises InputError when the plan is for a target of other sizes.
    """
    if [(layer.outputs, layer.inputs) for layer in plan.layers] != [weight.shape for weight in target.weights]:
        raise InputError(f"the plan is for other sizes than the target's, {target.sizes}")
    total = sum(layer.inputs + 1 for layer in plan.layers)
    done = iter(range(1, total + 1))

    def tick() -> None:
        if progress is not None:
            progress(next(done), total)

    masks, reached, missing = [], [], []
    for number, layer in enumerate(plan.layers):
        matrix = np.column_stack([target.weights[number], target.biases[number]])
        drawn = streams(seed, number, (layer.inputs + 1, layer.outputs))
        mask, reach, lost = _layer(matrix, layer, plan.lottery.sampling, drawn, tick)
        masks.append(mask)
        reached.append(reach)
        missing.append(lost)
    return Ticket(plan, seed, tuple(masks), tuple(reached), tuple(missing))


def _layer(
    matrix: Float[np.ndarray, "out in_"],
    layer: LayerPlan,
    sampling: str,
    drawn: tuple[Stream, Stream],
    tick: Callable[[], None],
) -> tuple[LayerMask, int, int]:
    """One layer's mask, neurons looked at, and what was missing."""
    begin, missing, reached = 0, 0, 0
    kept = []
    for source, column in enumerate(matrix.T):
        tick()
        live = column != 0
        if not live.any():
            continue
        weights = np.where(np.abs(column) > layer.accuracy, column, 0.0)  # to smaller ones, nothing is close enough
        starts = np.full(layer.outputs, begin, dtype=np.int64)
        if sampling == "per-weight":
            starts += layer.pool * (np.cumsum(live) - 1).clip(0)
        room = layer.width - begin if sampling == "batch" else layer.pool
        sides = layer.sides if source < layer.inputs else 1
        choice = layer.law.choose(*drawn, weights, Places(source, starts, room, sides))
        begin += _next(choice.reach, layer.pool, int(live.sum()), sampling)  # a batch hands on what it did not look at
        reached += int(choice.reach.sum() if sampling == "per-weight" else choice.reach.max())
        missing += choice.missing
        kept.append((source, *_edges(choice.neurons)))
    return _mask(kept), reached, missing


def _next(reach: Any, pool: int, weights: int, sampling: str) -> int:
    """Neurons until the next input's begin."""
    return {"per-weight": pool * weights, "per-input": pool, "batch": int(reach.max())}[sampling]


def _edges(chosen: Int[np.ndarray, "sides outputs slots"]) -> tuple[Any, Any]:
    """Neurons and outputs of all edges, neurons ascending."""
    places = np.nonzero(chosen >= 0)
    neurons, outputs = chosen[places], places[1]
    order = np.lexsort((outputs, neurons))  # by neuron, then output: the order of a sparse matrix's rows
    return neurons[order], outputs[order]


def _mask(kept: list[tuple[int, Any, Any]]) -> LayerMask:
    neurons, sources, counts, outputs = [], [], [], []
    for source, edges, ends in kept:
        alive, count = np.unique(edges, return_counts=True)
        neurons.append(alive)
        sources.append(np.full(len(alive), source))
        counts.append(count)
        outputs.append(ends.astype(np.int32))
    nothing = [np.zeros(0, dtype=np.int64)]
    starts = np.concatenate([[0], np.cumsum(np.concatenate(counts + nothing))]).astype(np.int64)
    edges = np.concatenate([*outputs, np.zeros(0, dtype=np.int32)])
    return LayerMask(np.concatenate(neurons + nothing), np.concatenate(sources + nothing), starts, edges)

"""min_cut(program, trade_off): the exact optimum, as a largest closure found by one maximum flow.

A split earns its gain and needs its parent and, for every example that reaches it, the
feature it tests: a maximum-weight closure (Picard 1976). Gains flow from splits to
their ancestors and to pairs, whose costs are the only way out; what cannot flow out
pays for itself and stays. The flow is found by push-relabel (Goldberg and Tarjan 1988)
with distances searched anew now and then; capacities are whole numbers, so it is exact
up to their rounding (2^-60 of the sum of gains).
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from secateur.core.compiled import compiled
from secateur.trees.integer_program import IntegerProgram

__all__ = ["min_cut"]

_TOTAL, _ENDLESS = 2.0**60, 2**62


class _Graph(NamedTuple):
    """Arcs by the node they leave; `back` is the same arc the other way, `room` what still fits."""

    start: Any
    to: Any
    back: Any
    room: Any


class _Work(NamedTuple):
    """Of every node: distance to the way out, next arc to try, what waits in it; and a ring of nodes to see to."""

    label: Any
    arc: Any
    excess: Any
    ring: Any
    queued: Any
    ends: Any  # head of the ring, how many are in it


def min_cut(program: IntegerProgram, trade_off: float) -> Bool[np.ndarray, " splits"]:
    """The splits to keep: least mean error + trade_off x mean cost; of equal choices, few splits.

    Formula: max_{closed Y} sum_{u in Y} g_u - lambda T sum_{p needed by Y} c_p [Picard 1976]
    """
    splits = len(program.gain)
    if splits == 0:
        return np.zeros(0, bool)
    total = float(np.abs(program.gain).sum()) or 1.0
    gain, price = program.gain / total, program.prices(trade_off) / total
    out = np.rint(np.concatenate([np.maximum(-gain, 0), price]) * _TOTAL).astype(np.int64)  # [splits + pairs]
    excess = np.zeros(len(out), np.int64)
    excess[:splits] = np.rint(np.maximum(gain, 0) * _TOTAL)  # gains start at their splits
    return _stranded(_graph(program), out, excess)[:splits]


def _graph(program: IntegerProgram) -> _Graph:
    """From a split to its parent and to the pairs it needs, and back."""
    splits, pairs = len(program.gain), len(program.pair_cost)
    lower = np.flatnonzero(program.parent >= 0)
    owner = np.repeat(np.arange(splits, dtype=np.int32), np.diff(program.start))
    tails = np.concatenate([lower.astype(np.int32), owner])
    heads = np.concatenate([program.parent[lower].astype(np.int32), (splits + program.pair).astype(np.int32)])
    counts = np.bincount(tails, minlength=splits + pairs) + np.bincount(heads, minlength=splits + pairs)
    start = np.concatenate([[0], np.cumsum(counts)])
    number = np.int32 if start[-1] < 2**31 else np.int64
    return _Graph(start, *_place(start[:-1].copy(), tails, heads, np.empty(start[-1], number)))


@compiled
def _place(cursor: Any, tails: Any, heads: Any, back: Any) -> Any:  # pragma: no cover - compiled
    to = np.empty(len(back), np.int32)
    room = np.zeros(len(back), np.int64)
    for arc in range(len(tails)):
        there, here = cursor[tails[arc]], cursor[heads[arc]]
        cursor[tails[arc]] += 1
        cursor[heads[arc]] += 1
        to[there], to[here] = heads[arc], tails[arc]
        back[there], back[here] = here, there
        room[there] = _ENDLESS  # a split cannot stay without what it needs
    return to, back, room


@compiled
def _stranded(graph: Any, out: Any, excess: Any) -> Any:  # pragma: no cover - compiled
    """Send out what can be sent; then the nodes that the rest can reach: the smallest largest closure."""
    nodes = len(out)
    work = _Work(
        np.empty(nodes, np.int32),
        np.empty(nodes, np.int64),
        excess,
        np.empty(nodes, np.int32),
        np.zeros(nodes, np.bool_),
        np.zeros(2, np.int64),
    )
    effort = nodes + 1
    while True:
        # Labels go stale as flow moves; measuring them anew now and then is what makes push-relabel fast.
        if effort > nodes:
            _measure(graph, out, work)
            effort = 0
        if work.ends[1] == 0:
            break
        node = work.ring[work.ends[0]]
        work.ends[0] = (work.ends[0] + 1) % nodes
        work.ends[1] -= 1
        work.queued[node] = False
        while work.excess[node] > 0 and work.label[node] <= nodes:
            _push(graph, out, work, node)
            if work.excess[node] > 0:
                effort += 1 + (graph.start[node + 1] - graph.start[node]) // 16
                _lift(graph, work, node)
    return _reached(graph, work.excess > 0, work.ring)


@compiled
def _push(graph: Any, out: Any, work: Any, node: int) -> None:  # pragma: no cover - compiled
    """Out, or along arcs to nodes one step nearer."""
    amount = min(work.excess[node], out[node])
    out[node] -= amount
    work.excess[node] -= amount
    at = work.arc[node]
    while at < graph.start[node + 1] and work.excess[node] > 0:
        target = graph.to[at]
        if graph.room[at] > 0 and work.label[target] + 1 == work.label[node]:
            amount = min(work.excess[node], graph.room[at])
            graph.room[at] -= amount
            graph.room[graph.back[at]] += amount
            work.excess[node] -= amount
            work.excess[target] += amount
            _enqueue(work, target)
        at += 1
    work.arc[node] = at if work.excess[node] > 0 else max(at - 1, graph.start[node])


@compiled
def _enqueue(work: Any, node: int) -> None:  # pragma: no cover - compiled
    if not work.queued[node]:
        # A node waits once, so the ring never overflows.
        work.ring[(work.ends[0] + work.ends[1]) % len(work.ring)] = node
        work.queued[node] = True
        work.ends[1] += 1


@compiled
def _lift(graph: Any, work: Any, node: int) -> None:  # pragma: no cover - compiled
    """One step farther than the nearest node with room on the way; the largest label where there is none."""
    best = len(work.label)
    for at in range(graph.start[node], graph.start[node + 1]):
        if graph.room[at] > 0:
            best = min(best, work.label[graph.to[at]])
    work.label[node] = best + 1
    work.arc[node] = graph.start[node]


@compiled
def _measure(graph: Any, out: Any, work: Any) -> None:  # pragma: no cover - compiled
    """Distances to the way out, by search backwards; then every node with something in it waits, farthest first.

    The way out is no node, so a path through all of them is `nodes` long: nodes + 1 says that there is none.
    """
    nodes = len(out)
    work.label[:] = nodes + 1
    work.arc[:] = graph.start[:-1]
    queue = np.empty(nodes, np.int32)
    head = tail = 0
    for node in range(nodes):
        if out[node] > 0:
            work.label[node] = 1
            queue[tail] = node
            tail += 1
    while head < tail:
        node = queue[head]
        head += 1
        for at in range(graph.start[node], graph.start[node + 1]):
            other = graph.to[at]
            if work.label[other] > nodes and graph.room[graph.back[at]] > 0:
                work.label[other] = work.label[node] + 1
                queue[tail] = other
                tail += 1
    work.ends[:] = 0
    work.queued[:] = False
    for place in range(tail - 1, -1, -1):
        if work.excess[queue[place]] > 0:
            _enqueue(work, queue[place])


@compiled
def _reached(graph: Any, seen: Any, queue: Any) -> Any:  # pragma: no cover - compiled
    """The nodes marked, and all that arcs with room lead to."""
    head = tail = 0
    for node in range(len(seen)):
        if seen[node]:
            queue[tail] = node
            tail += 1
    while head < tail:
        node = queue[head]
        head += 1
        for at in range(graph.start[node], graph.start[node + 1]):
            if graph.room[at] > 0 and not seen[graph.to[at]]:
                seen[graph.to[at]] = True
                queue[tail] = graph.to[at]
                tail += 1
    return seen

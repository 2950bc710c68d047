"""The plan: from a target's sizes and norms to the random distributions and widths, before anything is built."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from secateur.core.errors import InputError
from secateur.lottery.bounds import batch_size, pool_size
from secateur.lottery.distributions import Distribution, Hyperbolic, Uniform, best_round
from secateur.lottery.error_budget import LayerNorm, norm_of, split
from secateur.lottery.golden import GOLDEN, check_base, interval_count
from secateur.lottery.target import Target

__all__ = ["LayerPlan", "Lottery", "Plan", "Survey", "outline", "plan_sizes", "plan_survey", "plan_target", "survey"]


@dataclass(frozen=True, kw_only=True)
class Lottery:
    """What is asked for, and of which random network.

    eps: the largest error of the output, for inputs of norm `radius` or less. delta: the chance that the random
    network does not hold it. law: hyperbolic or uniform. sampling: per-weight (every weight has neurons of its own),
    per-input (every input has, for all outputs) or batch (one pool for a layer, handed from input to input).
    base: of the intervals, in (1, golden ratio]. norm: spectral or row-sum. signed: whether inputs may be negative.
    """

    eps: float = 0.01
    delta: float = 0.05
    radius: float = 1.0
    law: str = "hyperbolic"
    sampling: str = "batch"
    base: float = GOLDEN
    norm: str = "spectral"
    signed: bool = True

    def __post_init__(self) -> None:
        """Raise InputError on what cannot be asked for."""
        check_base(self.base)
        norm_of(self.norm)
        for value, name in ((self.eps, "eps"), (self.radius, "radius")):
            if not 0 < value < float("inf"):
                raise InputError(f"{name} {value} should be a positive number")
        if not 0 < self.delta < 1:
            raise InputError(f"delta {self.delta} is a probability between 0 and 1, neither included")
        for choice, known, name in ((self.law, _DISTRIBUTIONS, "law"), (self.sampling, _SAMPLINGS, "sampling")):
            if choice not in known:
                raise InputError(f"{name} {choice!r} is unknown: there is {', '.join(known)}")


class LayerPlan(NamedTuple):
    """One target layer's part of the random network.

    live: inputs that have a weight other than zero, the constant that carries biases included. accuracy: of a weight.
    pool: neurons of a weight (per-weight), of an input (per-input) or of all (batch). width: neurons of the
    intermediate layer. sides: 2 where inputs may be negative.
    """

    inputs: int
    outputs: int
    live: int
    weights: int
    accuracy: float
    law: Distribution
    pool: int
    width: int
    sides: int

    @property
    def factor(self) -> float:
        """Neurons for every live input: the width beside the target's."""
        return self.width / max(1, self.live)


class Plan(NamedTuple):
    """The layers' plans, the target's norms they rest on, and what was asked for."""

    lottery: Lottery
    layers: tuple[LayerPlan, ...]
    norms: tuple[LayerNorm, ...]

    @property
    def live(self) -> int:
        """Live inputs of all layers: what factors divide by."""
        return max(1, sum(layer.live for layer in self.layers))

    @property
    def factor(self) -> float:
        """The whole network's width factor: neurons of all intermediate layers for every live input of a layer."""
        return sum(layer.width for layer in self.layers) / self.live


class Survey(NamedTuple):
    """What plans need to know of a target, read once for all of them: norms, which weights are not 0, the largest."""

    norms: tuple[LayerNorm, ...]
    lives: tuple[Bool[np.ndarray, "_ _"], ...]
    largest: tuple[float, ...]


def survey(target: Target, norm: str) -> Survey:
    """Read a target by this norm."""
    measure = norm_of(norm)
    norms = tuple(measure.layer(*layer) for layer in zip(target.weights, target.biases, strict=True))
    # The bias is a weight on a constant input.
    matrices = [np.column_stack(layer) for layer in zip(target.weights, target.biases, strict=True)]
    largest = tuple(float(np.abs(matrix).max()) for matrix in matrices)
    return Survey(norms, tuple(matrix != 0 for matrix in matrices), largest)


def plan_target(target: Target, lottery: Lottery) -> Plan:
    """The plan for a target; its zeros need nothing. Raises InputError when eps is beyond float64."""
    return plan_survey(survey(target, lottery.norm), lottery)


def plan_survey(known: Survey, lottery: Lottery) -> Plan:
    """The plan for a target that was surveyed by the lottery's norm. Raises InputError when eps is beyond float64."""
    norm = norm_of(lottery.norm)
    errors = split(known.norms, lottery.eps, lottery.radius, norm)
    delta = lottery.delta / max(1, sum(bool(live.any()) for live in known.lives))  # layers without a weight cannot fail
    layers = []
    for number, (live, error, top) in enumerate(zip(known.lives, errors, known.largest, strict=True)):
        accuracy = error * norm.share(live)
        sides = 2 if lottery.signed and number == 0 else 1
        layers.append(_layer(lottery, live, top, accuracy, delta, sides))
    return Plan(lottery, tuple(layers), known.norms)


def plan_sizes(sizes: Sequence[int], lottery: Lottery, *, weight: float = 1.0, matrix: float = 1.0) -> Plan:
    """The plan for any target of these sizes, its weights at most `weight`, its layers with biases of norm `matrix`.

    Raises InputError for fewer than two sizes, sizes below 1 and limits that are no positive numbers.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise InputError(f"layers {','.join(map(str, sizes))} should be two sizes or more, each at least 1")
    for value, name in ((weight, "largest weight"), (matrix, "norm of a layer")):
        if not 0 < value < float("inf"):
            raise InputError(f"{name} {value} should be a positive number")
    pairs = list(pairwise(sizes))
    norms = (LayerNorm(matrix, matrix, matrix),) * len(pairs)
    lives = tuple(np.ones((out, into + 1), dtype=bool) for into, out in pairs)
    return plan_survey(Survey(norms, lives, (weight,) * len(pairs)), lottery)


def outline(plan: Plan) -> dict[str, Any]:
    """What a plan promises, as numbers: a row a layer, and the whole."""
    rows = [
        {
            "inputs": layer.inputs,
            "outputs": layer.outputs,
            "weights": layer.weights,
            "accuracy": layer.accuracy,
            "pool": layer.pool,
            "width": layer.width,
            "factor": layer.factor,
            "per_weight": layer.width / max(1, layer.weights),
            **(
                {"intervals": layer.law.intervals}
                if isinstance(layer.law, Hyperbolic)
                else {"round": layer.law.neurons}
            ),
        }
        for layer in plan.layers
    ]
    random = sum(layer.width * (layer.inputs + 1 + layer.outputs) for layer in plan.layers)
    return {
        "layers": rows,
        "width": sum(layer.width for layer in plan.layers),
        "factor": plan.factor,
        "random_weights": random,
    }


def _layer(
    lottery: Lottery, live: Bool[np.ndarray, "out in_"], top: float, accuracy: float, delta: float, sides: int
) -> LayerPlan:
    outputs, inputs = live.shape
    counts, weights = live.sum(axis=0), int(live.sum())
    law = _DISTRIBUTIONS[lottery.law](lottery, top or 1.0, accuracy, delta / max(1, 2 * weights))
    pool, width = _SAMPLINGS[lottery.sampling](np.repeat(law.misses, sides), counts, delta)
    return LayerPlan(
        inputs=inputs - 1,
        outputs=outputs,
        live=int((counts > 0).sum()),
        weights=weights,
        accuracy=accuracy,
        law=law,
        pool=law.neurons * pool,
        width=law.neurons * width,
        sides=sides,
    )


def _hyperbolic(lottery: Lottery, top: float, accuracy: float, _: float) -> Hyperbolic:
    count = interval_count(accuracy / top, lottery.base) if accuracy > 0 else 0
    return Hyperbolic(largest=top, intervals=count, base=lottery.base)


def _uniform(lottery: Lottery, top: float, accuracy: float, miss: float) -> Uniform:
    size = best_round(accuracy / top, miss) if 0 < accuracy < top else None
    return Uniform(largest=top, accuracy=accuracy, neurons=size.neurons if size else 1, miss=size.miss if size else 0.0)


def _per_weight(misses: Any, counts: Any, delta: float) -> tuple[int, int]:
    pool = pool_size(misses, int(counts.sum()), delta)
    return pool, pool * int(counts.sum())


def _per_input(misses: Any, counts: Any, delta: float) -> tuple[int, int]:
    pool = pool_size(misses, int(counts.sum()), delta)
    return pool, pool * int((counts > 0).sum())


def _batch(misses: Any, counts: Any, delta: float) -> tuple[int, int]:
    # Both bounds hold, so the smaller may be taken.
    width = min(batch_size(misses, counts, delta), _per_input(misses, counts, delta)[1])
    return width, width


_DISTRIBUTIONS: dict[str, Callable[[Lottery, float, float, float], Distribution]] = {
    "hyperbolic": _hyperbolic,
    "uniform": _uniform,
}
_SAMPLINGS: dict[str, Callable[[Any, Any, float], tuple[int, int]]] = {
    "per-weight": _per_weight,
    "per-input": _per_input,
    "batch": _batch,
}

"""How an error in the weights grows through the layers, and the error every layer may have."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from secateur.core.errors import InputError

__all__ = ["NORMS", "LayerNorm", "Norm", "norm_of", "propagate", "split"]


class LayerNorm(NamedTuple):
    """The norms of a layer's weights, its bias, and both side by side."""

    weight: float
    bias: float
    both: float


@dataclass(frozen=True, kw_only=True)
class Norm:
    """A norm of vectors and the norm of matrices it induces, and what follows for single weights.

    Formula: a = d / sqrt(weights) by spectral norms, d / (weights of the fullest row) by row sums [Frobenius]

    size: of torch vectors, with gradients; steepest: the step of norm 1 that goes along a gradient the most.
    joined: the norm of (h, 1) where h has this one. share: the largest error of single weights for a matrix error
    of 1, when only these entries `[out, in]` may be wrong.
    """

    vectors: Callable[[Float[np.ndarray, "rows width"]], Float[np.ndarray, " rows"]]
    size: Callable[[Float[Tensor, "rows width"]], Float[Tensor, " rows"]]
    steepest: Callable[[Float[Tensor, "rows width"]], Float[Tensor, "rows width"]]
    matrix: Callable[[Float[np.ndarray, "out in"]], float]
    joined: Callable[[float], float]
    share: Callable[[Bool[np.ndarray, "out in"]], float]

    def layer(self, weight: Float[np.ndarray, "out in"], bias: Float[np.ndarray, " out"]) -> LayerNorm:
        """The three norms of one layer."""
        column = bias[:, None]
        return LayerNorm(self.matrix(weight), self.matrix(column), self.matrix(np.hstack([weight, column])))


NORMS = {
    "spectral": Norm(  # an error of at most e a weight is one of at most e sqrt(weights), by Frobenius
        vectors=lambda rows: np.linalg.norm(rows, axis=1),
        size=lambda rows: rows.norm(dim=1),
        steepest=lambda slope: slope / slope.norm(dim=1, keepdim=True).clamp_min(1e-300),
        matrix=lambda weight: float(np.linalg.norm(weight, 2)) if weight.size else 0.0,
        joined=lambda size: math.hypot(size, 1.0),
        share=lambda live: 1 / math.sqrt(max(1, int(live.sum()))),
    ),
    "row-sum": Norm(
        vectors=lambda rows: np.abs(rows).max(axis=1),
        size=lambda rows: rows.abs().amax(dim=1),
        steepest=lambda slope: slope.sign(),
        matrix=lambda weight: float(np.abs(weight).sum(axis=1).max(initial=0.0)),
        joined=lambda size: max(size, 1.0),
        share=lambda live: 1 / max(1, int(live.sum(axis=1).max(initial=0))),
    ),
}


def norm_of(name: str) -> Norm:
    """The norm of this name. Raises InputError for another."""
    if name not in NORMS:
        raise InputError(f"norm {name!r} is unknown: there is {' and '.join(NORMS)}")
    return NORMS[name]


def propagate(layers: Sequence[LayerNorm], errors: Sequence[float], radius: float, norm: Norm) -> float:
    """A bound on the output's error for every input of norm `radius` or less.

    Formula: e_l = (|W_l| + d_l) e_{l-1} + d_l |(H_{l-1}, 1)| [ours, after Orseau et al. 2020]
    Formula: H_l = min(|W_l| H_{l-1} + |b_l|, |(W_l, b_l)| |(H_{l-1}, 1)|) [triangle inequality]

    errors: of each layer's (weight, bias) matrix. With activations bounded by H_l, e_l = (|W_l| + errors_l) e_{l-1} +
    errors_l |(H_{l-1}, 1)|: ReLU stretches nothing, and the constant that carries biases is exact.
    """
    size, error = radius, 0.0
    for layer, wrong in zip(layers, errors, strict=True):
        joined = norm.joined(size) if layer.bias > 0 else size  # without biases the constant feeds nothing
        error = (layer.weight + wrong) * error + wrong * joined
        size = min(layer.weight * size + layer.bias, layer.both * joined)
    return error


def split(layers: Sequence[LayerNorm], eps: float, radius: float, norm: Norm) -> list[float]:
    """The error of each layer, all the same share t of its norm, that lets the output's be eps and no more.

    Formula: d_l = t |(W_l, b_l)|, the largest t with e_L <= eps [ours]

    Without biases and by spectral norms, t = (1 + eps / (radius prod |W|))^(1/layers) - 1. Raises InputError when eps
    is no positive number or float64 cannot tell weights so close.
    """
    if not 0 < eps < math.inf:
        raise InputError(f"eps {eps} should be a positive number")

    def error(share: float) -> float:
        return propagate(layers, [share * layer.both for layer in layers], radius, norm)

    low, high = 0.0, 1.0
    while error(high) < eps and high < 1e6:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if error(middle) <= eps else (low, middle)  # the lower end always keeps the promise
    if low < 1e-13:
        raise InputError(
            f"eps {eps} asks for weights right to {low:.1e} of their layer: float64 holds no more than 1e-13"
        )
    return [low * layer.both for layer in layers]

"""The pruned random network: which neurons and edges are kept; their weights follow from the seed."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_array

from secateur.core.errors import InputError
from secateur.core.files import storage_errors
from secateur.lottery.plan import Plan
from secateur.lottery.random_weights import Stream, streams
from secateur.lottery.target import Target

__all__ = ["LayerMask", "Ticket", "load_masks", "save_masks"]

_NUMBERS = 1 << 23  # activations of an intermediate layer held at once


class LayerMask(NamedTuple):
    """One intermediate layer's kept edges.

    neurons: their numbers in the random network, each kept once. sources: the one input each keeps, the number
    of inputs for the constant. starts and outputs: neuron i keeps its edges to outputs[starts[i]:starts[i + 1]].
    """

    neurons: Int[np.ndarray, " kept"]
    sources: Int[np.ndarray, " kept"]
    starts: Int[np.ndarray, " ends"]
    outputs: Int[np.ndarray, " edges"]


class Ticket(NamedTuple):
    """A plan, a seed and masks: a network that exists without a stored weight.

    Formula: w x ~ sum_j v_j relu(u_j x), one sum for x > 0 and one for x < 0 [Malach et al. 2020; Orseau et al. 2020]

    reached: how many neurons of each intermediate layer were looked at. missing: what each layer's pool did not hold.
    """

    plan: Plan
    seed: int
    masks: tuple[LayerMask, ...]
    reached: tuple[int, ...]
    missing: tuple[int, ...]

    def streams(self, layer: int) -> tuple[Stream, Stream]:
        """The random weights into and out of an intermediate layer: every one of them, kept or not."""
        return streams(self.seed, layer, (self.plan.layers[layer].inputs + 1, self.plan.layers[layer].outputs))

    def weights(self, layer: int) -> tuple[Float[np.ndarray, " kept"], Float[np.ndarray, " edges"]]:
        """The kept weights into every kept neuron, and of every kept edge out."""
        mask, law = self.masks[layer], self.plan.layers[layer].law
        into, out = self.streams(layer)
        fractions, signs = into.draws(mask.neurons, mask.sources)
        inward = law.sizes(fractions) * signs
        fractions, signs = out.draws(np.repeat(mask.neurons, np.diff(mask.starts)), mask.outputs)
        return inward, law.sizes(fractions) * signs

    def __call__(self, x: Float[np.ndarray, "rows inputs"]) -> Float[np.ndarray, "rows outputs"]:
        """Run the pruned network as the ordinary ReLU network it is, by sparse matrices, some rows at a time."""
        for number, (mask, layer) in enumerate(zip(self.masks, self.plan.layers, strict=True)):
            inward, outward = self.weights(number)
            known = np.hstack([np.maximum(x, 0.0) if number else x, np.ones((len(x), 1))])
            edges = csr_array((outward, mask.outputs, mask.starts), shape=(len(inward), layer.outputs))
            x = np.empty((len(x), layer.outputs))
            for rows in np.array_split(np.arange(len(x)), math.ceil(len(x) * len(inward) / _NUMBERS) or 1):
                # [rows, kept] @ [kept, outputs]
                x[rows] = np.maximum(known[rows][:, mask.sources] * inward, 0.0) @ edges
        return x

    def slopes(self, layer: int) -> Iterator[Float[np.ndarray, "out in_"]]:
        """What positive inputs are multiplied with, and negative ones where there are any; the bias stands last.

        Formula: W+ = sum_{j: u_j > 0} v_j u_j, W- = sum_{j: u_j < 0} v_j u_j [ours]
        """
        mask, plan = self.masks[layer], self.plan.layers[layer]
        inward, outward = self.weights(layer)
        counts = np.diff(mask.starts)
        # Int32 would overflow for wide layers.
        places = mask.outputs.astype(np.int64) * (plan.inputs + 1) + np.repeat(mask.sources, counts)
        products = np.repeat(inward, counts) * outward
        for side in range(plan.sides):
            here = np.repeat((inward > 0) == (side == 0), counts)
            flat = np.bincount(places[here], products[here], minlength=plan.outputs * (plan.inputs + 1))
            yield flat.reshape(plan.outputs, plan.inputs + 1).astype(np.float64)  # of nothing, bincount is whole

    def product(self) -> Target:
        """The same function as a small dense network: intermediate neurons multiplied out.

        Where inputs may be negative, a first layer splits x into (x, -x): the two sides have slopes of their own.
        """
        weights, biases = [], []
        for number, layer in enumerate(self.plan.layers):
            sides = list(self.slopes(number))
            if len(sides) == 2:
                one = np.eye(layer.inputs)
                weights.append(np.vstack([one, -one]))
                biases.append(np.zeros(2 * layer.inputs))
                weights.append(np.hstack([sides[0][:, :-1], -sides[1][:, :-1]]))
            else:
                weights.append(sides[0][:, :-1])
            biases.append(sides[0][:, -1])
        return Target(tuple(weights), tuple(biases))

    @property
    def edges(self) -> int:
        """Kept edges, into and out of intermediate neurons."""
        return sum(len(mask.neurons) + len(mask.outputs) for mask in self.masks)


def save_masks(masks: tuple[LayerMask, ...], path: Path) -> None:
    """Write masks as safetensors: LAYER.neurons, .sources, .starts and .outputs."""
    tensors = {f"{number}.{name}": array for number, mask in enumerate(masks) for name, array in mask._asdict().items()}
    with storage_errors(path):
        save_file(tensors, path)


def load_masks(path: Path, plan: Plan) -> tuple[LayerMask, ...]:
    """Masks that fit a plan. Raises InputError when the file cannot be read or names neurons the plan does not have."""
    try:
        tensors = load_file(path)
        masks = tuple(
            LayerMask(*(tensors[f"{number}.{name}"] for name in LayerMask._fields))
            for number in range(len(plan.layers))
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"masks {path} cannot be read: {error}") from error
    for number, (mask, layer) in enumerate(zip(masks, plan.layers, strict=True)):
        if not _fits(mask, layer.width, layer.inputs + 1, layer.outputs):
            raise InputError(f"masks of layer {number} in {path} do not fit its plan of {layer.width:,} neurons")
    return masks


def _fits(mask: LayerMask, width: int, inputs: int, outputs: int) -> bool:
    starts: Any = mask.starts
    limits = ((mask.neurons, width), (mask.sources, inputs), (mask.outputs, outputs), (starts, mask.outputs.size + 1))
    if not all(_below(array, limit) for array, limit in limits) or len(mask.sources) != len(mask.neurons):
        return False
    ends = len(starts) == len(mask.neurons) + 1 and (starts[0], starts[-1]) == (0, len(mask.outputs))
    return ends and bool((np.diff(starts) >= 0).all()) and len(np.unique(mask.neurons)) == len(mask.neurons)


def _below(array: Any, limit: int) -> bool:
    return array.ndim == 1 and array.dtype.kind == "i" and bool(((array >= 0) & (array < limit)).all())

"""The target: linear layers with ReLU between them, from a safetensors file, a torch Sequential, or bundled."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import nn

from secateur.core.cache import cached
from secateur.core.errors import InputError, ModelError
from secateur.core.files import storage_errors

__all__ = ["Digits", "Target", "digits_target", "read_digits", "read_target", "write_target"]

_ORDER = re.compile(r"(\d+)")
_TEST = 360  # the last fifth, by writers of their own


@dataclass(frozen=True)
class Target:
    """Weights `[out, in]` and biases `[out]` of every layer; ReLU after all but the last."""

    weights: tuple[Float[np.ndarray, "_ _"], ...]
    biases: tuple[Float[np.ndarray, " _"], ...]

    @property
    def sizes(self) -> list[int]:
        """Inputs, and the outputs of every layer."""
        return [self.weights[0].shape[1], *(len(weight) for weight in self.weights)]

    def __call__(self, x: Float[np.ndarray, "rows inputs"]) -> Float[np.ndarray, "rows outputs"]:
        """The outputs, in float64."""
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = (np.maximum(x, 0.0) if number else x) @ weight.T + bias
        return x

    def to_sequential(self) -> nn.Sequential:
        """The same network in torch, in float64."""
        layers: list[nn.Module] = []
        for weight, bias in zip(self.weights, self.biases, strict=True):
            layer = nn.Linear(weight.shape[1], len(weight), dtype=torch.float64)
            layer.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
            layers += [layer, nn.ReLU()]
        return nn.Sequential(*layers[:-1])


def read_target(source: str | Path | nn.Sequential) -> Target:
    """A target from a Sequential of Linear and ReLU by turns, or a safetensors file.

    A file holds NAME.weight `[out, in]` and NAME.bias `[out]`; layers stand in natural order of their names.
    Raises ModelError when the file cannot be read, and on anything else.
    """
    if isinstance(source, nn.Sequential):
        kinds = [type(layer) for layer in source]
        if len(kinds) % 2 == 0 or kinds != [nn.ReLU if place % 2 else nn.Linear for place in range(len(kinds))]:
            names = ", ".join(kind.__name__ for kind in kinds)
            raise ModelError(f"a target is Linear, ReLU, Linear, ..., Linear; this one is {names or 'empty'}")
        state = source.state_dict().items()
        return _target({name: tensor.detach().cpu().double().numpy() for name, tensor in state}, "the Sequential")
    try:
        tensors = load_file(source)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"target {source} cannot be read as safetensors of float numbers: {error}") from error
    return _target(tensors, str(source))


def write_target(target: Target, path: Path) -> None:
    """Write a target as torch names a Sequential's tensors: 0.weight, 0.bias, 2.weight, ..."""
    tensors: dict[str, Any] = {}
    for number, (weight, bias) in enumerate(zip(target.weights, target.biases, strict=True)):
        tensors |= {f"{2 * number}.weight": weight, f"{2 * number}.bias": bias}
    with storage_errors(path):
        save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, path)  # as it reads memory


class Digits(NamedTuple):
    """Images `[rows, 64]` of length 1, so that they lie in the unit ball, and what they show."""

    train: Float[np.ndarray, "rows pixels"]
    train_labels: Int[np.ndarray, " rows"]
    test: Float[np.ndarray, "others pixels"]
    test_labels: Int[np.ndarray, " others"]


def read_digits() -> Digits:
    """The digits, their last 360 for testing. Raises InputError without scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InputError("bundled:digits-mlp needs scikit-learn: pip install 'secateur[lottery]'") from error
    images, labels = load_digits(return_X_y=True)
    images = images / np.linalg.norm(images, axis=1, keepdims=True)
    return Digits(images[:-_TEST], labels[:-_TEST], images[-_TEST:], labels[-_TEST:])


def digits_target() -> Target:
    """The network, trained when it is first asked for and cached. Raises InputError without scikit-learn."""
    digits = read_digits()
    import sklearn

    content = hashlib.sha256(digits.train.tobytes() + digits.train_labels.tobytes()).hexdigest()
    made_of = (content, sklearn.__version__)
    return read_target(cached("digits-mlp.safetensors", lambda path: _train(digits, path), of=made_of))


def _train(digits: Digits, path: Path) -> None:
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier((32,), alpha=0.1, max_iter=1000, random_state=0).fit(digits.train, digits.train_labels)
    weights, biases = model.coefs_, model.intercepts_
    write_target(Target(tuple(weight.T.copy() for weight in weights), tuple(biases)), path)


def _target(tensors: Mapping[str, Any], where: str) -> Target:
    layers = sorted((name for name in tensors if name.endswith(".weight")), key=_natural)
    known = {*layers, *(name.removesuffix("weight") + "bias" for name in layers)}
    other = sorted(set(tensors) - known)
    if other or not layers:
        raise ModelError(
            f"{where} should hold NAME.weight and NAME.bias of linear layers, found {other or 'no tensor'}"
        )
    weights: list[Any] = []
    biases: list[Any] = []
    for name in layers:
        weight = tensors[name]
        if weight.ndim != 2 or not weight.size or not np.issubdtype(weight.dtype, np.floating):
            raise ModelError(f"{name} of {where} is {weight.dtype} {list(weight.shape)}: a layer is a float matrix")
        bias = tensors.get(name.removesuffix("weight") + "bias", np.zeros(len(weight)))
        if bias.shape != (len(weight),):
            raise ModelError(
                f"the bias of {name} in {where} is {list(bias.shape)}, the layer has {len(weight)} outputs"
            )
        if weights and weight.shape[1] != len(weights[-1]):
            raise ModelError(
                f"{name} of {where} takes {weight.shape[1]} inputs, the layer before gives {len(weights[-1])}"
            )
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise ModelError(f"{name} of {where} or its bias holds NaN or infinite numbers")
        weights.append(weight.astype(np.float64))
        biases.append(bias.astype(np.float64))
    return Target(tuple(weights), tuple(biases))


def _natural(name: str) -> list[Any]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in _ORDER.split(name)]

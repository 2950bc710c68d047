"""InputRMS, Gram and Cross: running sums over a layer's inputs that merge exactly."""

from collections.abc import Iterable, Mapping
from typing import TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

from secateur.core.errors import CalibrationError
from secateur.core.linalg import damped, inverse_factor
from secateur.core.protocols import Statistic
from secateur.core.shapes import Activations, GramMatrix

__all__ = ["Cross", "Gathered", "Gram", "InputRMS", "gather"]

S = TypeVar("S")
Summed = TypeVar("Summed", bound="_Sum")
_PANEL = 192  # rows of the Gram computed at a time: only blocks on and below the diagonal


def _finite(total: Tensor, tokens: int) -> None:
    if tokens == 0:
        raise CalibrationError(
            "no calibration token reached this layer, so nothing is known of its inputs: "
            "use more samples, or leave the layer out"
        )
    if not torch.isfinite(total).all():
        raise CalibrationError("calibration activations hold NaN or inf: try --dtype float32")


class _Sum(Statistic):
    """A sum over tokens."""

    def __init__(self) -> None:
        """Start with no tokens."""
        self.tokens = 0
        self.total: Tensor | None = None

    def merge(self: Summed, other: Summed) -> Summed:
        """The sum over both sets of inputs."""
        both = type(self)()
        for part in (self, other):
            if part.total is not None:
                both._add(part.total, part.tokens)
        return both

    def _add(self, total: Tensor, tokens: int) -> None:
        self.total = total.clone() if self.total is None else self.total + total
        self.tokens += tokens

    def _known(self) -> Tensor:
        """The sum. Raises CalibrationError without tokens."""
        if self.total is None:
            _finite(torch.zeros(1), 0)
        return cast(Tensor, self.total)


class InputRMS(_Sum):
    """The root mean square of every input, `[in]`; what Wanda scales by."""

    def update(self, x: Activations) -> None:
        """Add a batch of inputs."""
        self._add(x.float().square().sum(dim=0), len(x))  # [tokens, in] -> [in]

    @property
    def value(self) -> Float[Tensor, " in"]:
        """sqrt(mean x^2). Raises CalibrationError without tokens, or with NaN or inf."""
        total = self._known()
        _finite(total, self.tokens)
        return (total / self.tokens).sqrt()


class Gram(_Sum):
    """2/n sum x x^T over a layer's inputs, `[in, in]` (the layer's Hessian).

    Sums are float32 and only the lower half is computed; the matrix and its inverse
    factor are kept for the layers that share these inputs.
    """

    def __init__(self) -> None:
        """Start with no tokens."""
        super().__init__()
        self._value: Tensor | None = None
        self._factors: dict[float, Tensor] = {}

    def update(self, x: Activations) -> None:
        """Add a batch of inputs."""
        x = x.float()
        width = x.shape[1]
        if self.total is None:
            self.total = torch.zeros(width, width, device=x.device)
        for top in range(0, width, _PANEL):
            low = min(top + _PANEL, width)
            # Half the products of a symmetric matrix.
            self.total[top:low, :low].addmm_(x[:, top:low].T, x[:, :low])
        self.tokens += len(x)
        self._value = None
        self._factors.clear()  # more inputs make them stale

    @property
    def value(self) -> GramMatrix:
        """The whole symmetric matrix. Raises CalibrationError without tokens, or with NaN or inf."""
        total = self._known()
        _finite(total.diagonal(), self.tokens)  # a NaN anywhere in x shows on the diagonal
        if self._value is None:
            lower = total.tril().mul_(2 / self.tokens)  # panels reach above the diagonal: cut that off
            self._value = lower + lower.tril(-1).T
        return self._value

    def factor(self, damp: float) -> GramMatrix:
        """The upper inverse factor of the damped Gram, computed once per damp."""
        if damp not in self._factors:
            self._factors[damp] = inverse_factor(damped(self.value, damp))
        return self._factors[damp]


class Cross(_Sum):
    """2/n sum y x^T, `[in, in]`: x a layer's inputs in the pruned model, y those in the dense one, token by token."""

    def update(self, x: Activations) -> None:
        """Inputs of one model alone add nothing."""

    def pair(self, dense: Activations, x: Activations) -> None:
        """Add a batch of inputs, as they are in both models."""
        if self.total is None:
            self.total = torch.zeros(dense.shape[1], x.shape[1], device=x.device)
        self.total.addmm_(dense.float().T, x.float())
        self.tokens += len(x)

    @property
    def value(self) -> GramMatrix:
        """The matrix, which is not symmetric. Raises CalibrationError without tokens, or with NaN or inf."""
        total = self._known()
        _finite(total, self.tokens)
        return total * (2 / self.tokens)


class Gathered:
    """The statistics of one layer, looked up by type.

    tokens: how many reached a layer that not all reach. fallback: what stands for the statistics of one that too few
    reached.
    """

    def __init__(self, parts: Mapping[type[Statistic], Statistic]) -> None:
        """Keep the gathered statistics."""
        self.parts = dict(parts)
        self.tokens: int | None = None
        self.fallback: str | None = None

    def __getitem__(self, kind: type[S], /) -> S:
        """The gathered statistic of this type; KeyError when it was not asked for."""
        return cast(S, self.parts[cast(type[Statistic], kind)])

    def __contains__(self, kind: object) -> bool:
        """Whether this statistic was gathered."""
        return kind in self.parts

    def too_few(self, tokens: int) -> bool:
        """Whether fewer than so many tokens reached the layer."""
        return self.tokens is not None and self.tokens < tokens

    def joined(self, others: Mapping[type[Statistic], Statistic]) -> "Gathered":
        """These statistics and others of the same layer."""
        both = Gathered({**self.parts, **others})
        both.tokens, both.fallback = self.tokens, self.fallback
        return both

    def clear(self) -> None:
        """Start every statistic again, without tokens."""
        self.parts = {kind: kind() for kind in self.parts}

    def update(self, x: Activations) -> None:
        """Add a batch of inputs to every statistic."""
        for part in self.parts.values():
            part.update(x)


def gather(needs: Iterable[type[Statistic]], *batches: Tensor) -> Gathered:
    """Fresh statistics of these types, updated with the batches `[tokens, in]` given."""
    gathered = Gathered({kind: kind() for kind in needs})
    for batch in batches:
        gathered.update(batch)
    return gathered

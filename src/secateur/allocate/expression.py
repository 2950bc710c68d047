"""Small programs from a block's scores to one number: (pre)-(reduction)-(post)-(strength)."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.core.errors import InputError

__all__ = ["POST", "PRE", "PUBLISHED", "REDUCE", "STRENGTHS", "Expression", "parse"]

Scores = Sequence[Tensor]
_SMALL = 1e-6


def _flat(scores: Scores) -> Tensor:
    return torch.cat([score.flatten() for score in scores]).double()


def _each(change: Callable[[Tensor], Tensor]) -> Callable[[Scores], Scores]:
    return lambda scores: [change(score) for score in scores]


def _normalize(scores: Scores) -> Scores:
    flat = _flat(scores)
    mean, std = float(flat.mean()), float(flat.std())
    return [((score - mean) / std).nan_to_num(0.0) for score in scores]  # equal scores: 0 / 0


def _min_max(scores: Scores) -> Scores:
    low = min(float(score.min()) for score in scores)
    high = max(float(score.max()) for score in scores)
    return [(score - low) / (high - low + 1e-9) for score in scores]  # equal scores become 0


PRE: Mapping[str, Callable[[Scores], Scores]] = {
    "no_op": lambda scores: scores,
    "abs": _each(torch.abs),
    "log": _each(lambda x: (torch.where(x <= 0, 1.0, x) + _SMALL).log()),
    "abslog": _each(lambda x: torch.where(x == 0, 1.0, x).abs().log()),
    "pow": _each(torch.square),
    "exp": _each(torch.exp),
    "normalize": _normalize,
    "sigmoid": _each(torch.sigmoid),
    "tanh": _each(torch.tanh),
    "mms": _min_max,
}


def _on_all(reduce: Callable[[Tensor], Tensor]) -> Callable[[Scores], float]:
    return lambda scores: float(reduce(_flat(scores)))


def _on_each(reduce: Callable[[Tensor], Tensor]) -> Callable[[Scores], float]:
    return lambda scores: math.fsum(float(reduce(score.double())) for score in scores) / len(scores)


def _entropy(x: Tensor) -> Tensor:
    # entr is -p ln p, and 0 at 0.
    share = x.abs() / x.abs().sum()
    return torch.special.entr(share).sum()


def _mean_gram(x: Tensor) -> Tensor:
    """The mean entry of x x^T."""
    return x.sum(dim=0).square().sum() / len(x) ** 2  # sum of all entries of x x^T without computing it


def _mean_correlation(x: Tensor) -> Tensor:
    """The mean entry of the rows' correlation matrix."""
    centred = x - x.mean(dim=1, keepdim=True)
    return _mean_gram(centred / centred.norm(dim=1, keepdim=True))


def _small_gram(x: Tensor) -> Tensor:
    return x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x  # the smaller Gram


REDUCE: Mapping[str, Callable[[Scores], float]] = {
    "mean": _on_all(torch.mean),
    "var": _on_all(torch.var),
    "std": _on_all(torch.std),
    "l1_norm": _on_all(lambda x: x.abs().mean()),
    "frobenius_norm": _on_all(torch.linalg.vector_norm),
    "geometric_mean": _on_all(lambda x: x.clamp_min(torch.finfo(x.dtype).tiny).log().mean().exp()),
    "entropy": _on_all(_entropy),
    "gram": _on_each(_mean_gram),
    "correlation": _on_each(_mean_correlation),
    "diagonal": _on_each(lambda x: x.diagonal().mean()),
    "determinant": _on_each(lambda x: torch.linalg.det(_small_gram(x))),
    "slogdet": _on_each(lambda x: torch.linalg.slogdet(_small_gram(x)).logabsdet),
    "rank": _on_each(lambda x: torch.linalg.matrix_rank(_small_gram(x), hermitian=True).double()),
}
POST: Mapping[str, Callable[[Tensor], Tensor]] = {
    "no_op": lambda x: x,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "asin": torch.asin,
    "acos": torch.acos,
    "atan": torch.atan,
    "exp": torch.exp,
    "log": torch.log,
    "abs": torch.abs,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": torch.nn.functional.softplus,
}
STRENGTHS = (7, 8, 9, 10)
PUBLISHED = "(abslog)-(var)-(atan,asin)-(7)"


@dataclass(frozen=True)
class Expression:
    """A well-typed program; its text is (pre,...)-(reduction)-(post,...)-(strength)."""

    pre: tuple[str, ...]
    reduce: str
    post: tuple[str, ...]
    strength: int

    def __post_init__(self) -> None:
        """Refuse operators out of place."""
        tables = ((self.pre, PRE, 2), ((self.reduce,), REDUCE, 1), (self.post, POST, 2))
        for names, table, most in tables:
            if not 1 <= len(names) <= most or not all(name in table for name in names):
                raise InputError(f"{self}: {', '.join(names)} should be 1 to {most} of {', '.join(table)}")
        if self.strength not in STRENGTHS:
            raise InputError(f"{self}: strength {self.strength} should be one of {STRENGTHS}")

    def __str__(self) -> str:
        """The text `parse` reads."""
        return f"({','.join(self.pre)})-({self.reduce})-({','.join(self.post)})-({self.strength})"

    def in_words(self) -> str:
        """What it does, as a sentence."""
        first = "" if self.pre == ("no_op",) else f"{', then '.join(self.pre)} of every score; "
        return (
            f"{first}their {self.reduce}; of that {', then '.join(self.post)}; the larger, the more of a block goes, "
            f"up to {self.strength / 100:g} on either side of the target"
        )

    def reduced(self, scores: Scores) -> float:
        """The number before post-processing, of a block's score matrices `[out, in]`."""
        for name in self.pre:
            scores = PRE[name](scores)
        return REDUCE[self.reduce](scores)

    def finish(self, value: float) -> float:
        """Post-processing; NaN becomes 0, as where a domain ends; infinity stays."""
        result = torch.tensor(value, dtype=torch.float64)
        for name in self.post:
            result = POST[name](result)
        return 0.0 if math.isnan(float(result)) else float(result)  # as in the paper's search


def parse(text: str) -> Expression:
    """An expression from its text, such as (abslog)-(var)-(atan,asin)-(7). Raises InputError on anything else."""
    match = re.fullmatch(r"\(([\w,]+)\)-\((\w+)\)-\(([\w,]+)\)-\((\d+)\)", text.lower().removeprefix("w:"))
    if not match:
        raise InputError(f"expression {text!r} should look like (abslog)-(var)-(atan,asin)-(7)")
    return Expression(tuple(match[1].split(",")), match[2], tuple(match[3].split(",")), int(match[4]))

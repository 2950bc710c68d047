"""Left-to-right sweep with errors pushed to later columns (SparseGPT)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from secateur.calibrate.statistic import Gram
from secateur.core.errors import InputError
from secateur.core.linalg import layer_loss
from secateur.core.protocols import Pattern, Solution, Statistic, Stats
from secateur.core.shapes import GramMatrix, Weight

__all__ = ["SparseGPT"]

_STRIP = 16  # columns swept one by one before a matrix product takes over


@dataclass(frozen=True, kw_only=True)
class SparseGPT:
    """One sweep over columns: remove by saliency, push each error on to the columns that follow.

    Formula: S_ij = W_ij^2 / [H^-1]_jj^2, W_i,j: -= W_ij / [H^-1]_jj [H^-1]_j,j: [Frantar & Alistarh 2023, Algorithm 1]

    damp: share of the Gram's mean diagonal added before inversion.
    block: columns whose errors are pushed on together, and whose mask is chosen
    together unless the pattern has groups of its own (n:m chooses every m columns).
    Inputs that were zero in every token score nothing and go first.
    """

    damp: float = 0.01
    block: int = 128

    name: ClassVar[str] = "sparsegpt"

    def __post_init__(self) -> None:
        """Refuse settings that repair nothing."""
        if not self.damp >= 0 or self.block < 1:
            raise InputError(
                f"sparsegpt needs damp of at least 0 and block of at least 1, got {self.damp}, {self.block}"
            )

    @property
    def needs(self) -> tuple[type[Statistic], ...]:
        """The Gram of the inputs."""
        return (Gram,)

    def solve(self, weight: Weight, stats: Stats, pattern: Pattern, ratio: float) -> Solution:
        """Sweep the columns. Raises NumericalError when the damped Gram is singular."""
        pattern.check((weight.shape[0], weight.shape[1]), ratio)
        gram = stats[Gram].value
        factor = stats[Gram].factor(self.damp)  # U with U^T U = H^-1, shared by layers with these inputs
        # Turned round, as the sweep goes over inputs: each is one contiguous row of memory.
        columns = weight.T.to(gram.dtype).clone(memory_format=torch.contiguous_format)
        keep = self._sweep_(columns, factor, gram.diagonal() > 0, pattern, ratio)
        pruned = columns.T.to(weight.dtype).contiguous()
        return Solution(pruned, keep.T, layer_loss(weight, pruned, gram))

    def _sweep_(
        self,
        columns: Float[Tensor, "in out"],
        factor: GramMatrix,
        alive: Bool[Tensor, " in"],
        pattern: Pattern,
        ratio: float,
    ) -> Bool[Tensor, "in out"]:
        """Prune the columns in place and return what was kept."""
        window = pattern.window(self.block)
        block = max(self.block // window, 1) * window  # a block holds whole windows, or a mask would be cut in two
        strip = _STRIP if window >= _STRIP else _STRIP // window * window
        keep = torch.ones_like(columns, dtype=torch.bool)
        scale = torch.empty_like(columns[:block])  # 1 / U_jj where a weight goes, else 0
        errors = torch.empty_like(columns[:block])
        push = factor.triu(1)  # a column's error never reaches itself
        diagonal = factor.diagonal()[:, None]
        for start in range(0, len(columns), block):
            end = min(start + block, len(columns))
            for low in range(start, end, strip):
                high = min(low + strip, end)
                part = columns[low:high]
                done = errors[low - start : high - start]
                rows = zip(part, scale[low - start : high - start], done, push[low:high, low:high], strict=True)
                for j, (column, factors, error, reach) in enumerate(rows, low):
                    if (j - start) % window == 0:
                        group = slice(j, min(j + window, end))
                        # On weights updated so far, as the original does: one choice for all columns loses more.
                        salience = (columns[group] / diagonal[group]).square_().mul_(alive[group, None])
                        keep[group] = pattern.keep_window(salience.T, ratio, j).T
                        torch.div(~keep[group], diagonal[group], out=scale[j - start : group.stop - start])
                    torch.mul(column, factors, out=error)
                    part.addr_(reach, error, alpha=-1)
                # The rest of the block learns of a whole strip at once, what follows the block below of a whole block.
                columns[high:end].addmm_(push[low:high, high:end].T, done, alpha=-1)
            columns[end:].addmm_(push[start:end, end:].T, errors[: end - start], alpha=-1)
        columns *= keep  # a removed weight kept its value until here: only its error moved on
        return keep

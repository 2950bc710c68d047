"""SoftWidths: learnable widths of every site, what each channel is worth under them, and what they cost."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateur.convnet.structure import ChannelStructure
from secateur.core.cut import Cut
from secateur.core.errors import RatioError
from secateur.score.filters import FilterNorm

__all__ = ["SoftWidths", "keep_probabilities", "width_steps"]


def width_steps(count: int, divisor: int) -> list[int]:
    """The widths a site may have: multiples of the divisor, and all its channels."""
    return [*range(divisor, count, divisor), count]


def keep_probabilities(logits: Float[Tensor, " widths"], steps: list[int]) -> Float[Tensor, " count"]:
    """How likely the j-th most important channel is kept, under a softmax over widths; the first always is.

    Formula: a(j) = sum over widths k >= j of softmax(u)_k [S2HPruner; Lin et al. 2024]
    """
    tails = logits.softmax(dim=0).flip(0).cumsum(0).flip(0)
    return tails.repeat_interleave(torch.tensor(steps).diff(prepend=torch.zeros(1, dtype=torch.long)))


class SoftWidths(nn.Module):
    """A logit for every width of every site; channels stand in order of importance.

    The order is that of the filters' L1 norms, and is fixed between calls of `sort`. `target` is
    the share of the dense network's multiply-accumulates that may be left.
    """

    def __init__(self, structure: ChannelStructure, target: float, divisor: int, start: float = 0.9) -> None:
        """start: the probability of keeping every channel at first. Raises RatioError on a target out of reach."""
        super().__init__()
        self.structure = structure
        self.sites = {site.name: site for site in structure.sites}
        self.steps = {name: width_steps(site.count, divisor) for name, site in self.sites.items()}
        logits = [_started(len(steps), start) for steps in self.steps.values()]
        self.logits = nn.ParameterList(nn.Parameter(own) for own in logits)
        self.target = target
        self.order: dict[str, Tensor] = {}
        self._costs = _Costs(structure)
        self.dense = float(self._costs.macs({name: torch.tensor(float(s[-1])) for name, s in self.steps.items()}))
        least = float(self._costs.macs({name: torch.tensor(float(s[0])) for name, s in self.steps.items()}))
        if not least <= target * self.dense:
            raise RatioError(
                f"target {target:g} of the MACs is out of reach: {least / self.dense:.3f} are left with "
                f"{divisor} channels at every site; use a smaller divisor"
            )
        self.sort()

    @torch.no_grad()
    def sort(self) -> None:
        """Put every site's channels in order of importance anew."""
        score = FilterNorm()
        self.order = {
            name: score(site, self.structure.layers, {}).argsort(descending=True, stable=True)
            for name, site in self.sites.items()
        }

    @torch.no_grad()
    def centre(self) -> None:
        """Take the mean off every site's logits: no probability changes, and they do not drift."""
        for own in self.logits:
            own -= own.mean()

    def keeps(self) -> dict[str, Tensor]:
        """The keep probability of every unit of every site, `[count]` in the site's own order."""
        found: dict[str, Tensor] = {}
        for (name, steps), own in zip(self.steps.items(), self.logits, strict=True):
            ranked = keep_probabilities(own, steps)
            found[name] = torch.empty_like(ranked).index_copy(0, self.order[name], ranked)
        return found

    def expected(self) -> dict[str, Tensor]:
        """The expected width of every site: the sum of its keep probabilities."""
        return {
            name: own.softmax(dim=0) @ torch.tensor(steps, dtype=own.dtype)
            for (name, steps), own in zip(self.steps.items(), self.logits, strict=True)
        }

    def widths(self) -> dict[str, int]:
        """The hard width of every site: the least of its steps that is not below the expected width."""
        return {
            name: next(step for step in self.steps[name] if step >= float(width.detach()) - 1e-4)
            for name, width in self.expected().items()
        }

    def share(self) -> Tensor:
        """The share of the multiply-accumulates left at hard widths, with the gradient of the expected ones.

        Formula: F(K) / F_all, K = ceil(E), dK/dE = 1 [S2HPruner; Lin et al. 2024]
        """
        hard = self.widths()
        straight = {name: width + (hard[name] - width).detach() for name, width in self.expected().items()}
        return self._costs.macs(straight) / self.dense

    def kept(self, widths: Mapping[str, int]) -> dict[str, Tensor]:
        """Ones for the most important units of every site and zeros for the others, `[count]`."""
        kept: dict[str, Tensor] = {}
        for name, width in widths.items():
            kept[name] = torch.zeros(self.sites[name].count)
            kept[name][self.order[name][:width]] = 1.0
        return kept

    @torch.no_grad()
    def fitted(self) -> dict[str, int]:
        """Hard widths that never cost more than the target: the least likely steps are given up, or taken, last."""
        widths = self.widths()
        limit = self.target * self.dense

        def likely(name: str, width: int) -> float:
            """How likely the channels of the step that ends at this width are kept."""
            own = self.logits[list(self.steps).index(name)]
            return float(own.softmax(dim=0)[self.steps[name].index(width) :].sum())

        while self.macs(widths) > limit:
            able = [name for name, width in widths.items() if width > self.steps[name][0]]
            worst = min(able, key=lambda name: likely(name, widths[name]))
            widths[worst] = self.steps[worst][self.steps[worst].index(widths[worst]) - 1]
        for name in sorted(widths, key=lambda name: -likely(name, self._next(name, widths[name]))):
            while self.macs({**widths, name: self._next(name, widths[name])}) <= limit:
                if widths[name] == self.steps[name][-1]:
                    break
                widths[name] = self._next(name, widths[name])
        return widths

    def _next(self, name: str, width: int) -> int:
        steps = self.steps[name]
        return steps[min(steps.index(width) + 1, len(steps) - 1)]

    def macs(self, widths: Mapping[str, int]) -> float:
        """Multiply-accumulates of one sample at these widths."""
        return float(self._costs.macs({name: torch.tensor(float(width)) for name, width in widths.items()}))

    def cut(self, widths: Mapping[str, int]) -> Cut:
        """The most important channels of every site that loses some."""
        return Cut(
            {
                name: tuple(sorted(self.order[name][:width].tolist()))
                for name, width in widths.items()
                if width < self.sites[name].count
            }
        )


def _started(count: int, start: float) -> Tensor:
    """Logits that give the last width the probability `start`, and the others equal ones."""
    logits = torch.zeros(count)
    if count > 1:
        logits[-1] = torch.log(torch.tensor((count - 1) * start / (1 - start)))
    return logits - logits.mean()


class _Costs:
    """Multiply-accumulates as a function of widths that gradients flow through; equal to `costs` at whole ones."""

    def __init__(self, structure: ChannelStructure) -> None:
        self.structure = structure
        names = [name for name, layer in structure.layers.items() if layer.is_matrix]
        shapes = [structure.layers[name].weight.shape for name in names]
        self.counts = {site.name: site.count for site in structure.sites}
        self.positions = torch.tensor([float(structure.positions.get(name, 0)) for name in names], dtype=torch.float64)
        self.sizes = torch.tensor([list(shape) for shape in shapes], dtype=torch.float64)
        self.each = torch.zeros(len(structure.sites), len(names), 2, dtype=torch.float64)  # entries a unit takes
        place = {name: number for number, name in enumerate(names)}
        for number, site in enumerate(structure.sites):
            for dim, parts in enumerate((site.rows, site.columns)):
                for name, index in parts.items():
                    if name in place:
                        self.each[number, place[name], dim] = index.shape[1]

    def macs(self, widths: Mapping[str, Tensor]) -> Tensor:
        gone = torch.stack([self.counts[name] - widths[name].double() for name in self.counts])
        left = self.sizes - torch.einsum("s,sld->ld", gone, self.each)
        return (left.prod(dim=1) * self.positions).sum()

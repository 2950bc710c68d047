"""S2H: a soft network, whose channels are scaled, teaches a hard one, in which they are kept or removed."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from secateur.adapt.layer import Layer
from secateur.convnet.structure import ChannelStructure
from secateur.core.cut import Cut
from secateur.core.errors import InputError
from secateur.train.loop import Cosine, Descent, Loop
from secateur.train.soft_widths import SoftWidths

__all__ = ["SoftToHard", "SoftToHardSettings", "weight_descent"]

_NEAR = 0.01  # of the target: from there on the distillation reaches the masks
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
Scales = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class SoftToHardSettings:
    """How widths are learned.

    target: share of the dense multiply-accumulates that may be left. divisor: widths are its multiples.
    distill: both (weights learn from the soft network, widths from the hard one), weights, or none.
    mask_rate: step size of the widths' logits. resource: coefficient of the squared distance from the
    target; guidance: of the distillation. start: probability of keeping every channel at first.
    settled: share of the steps, the last ones, in which widths are fixed and fit the target.
    """

    target: float = 0.5
    divisor: int = 4
    distill: str = "both"
    mask_rate: float = 0.02
    resource: float = 10.0
    guidance: float = 1.0
    start: float = 0.9
    settled: float = 0.1

    def __post_init__(self) -> None:
        """Refuse fields outside their range."""
        if not 0 < self.target <= 1 or self.divisor < 1 or not 0 < self.start < 1 or not 0 <= self.settled < 1:
            raise InputError("s2h needs target in 0..1, divisor of at least 1, start in 0..1 and settled in 0..1")
        if self.distill not in ("both", "weights", "none"):
            raise InputError(f"s2h: distill {self.distill!r} is both, weights or none")
        if not min(self.mask_rate, self.resource, self.guidance) >= 0:
            raise InputError("s2h needs mask_rate, resource and guidance of at least 0")


class _Batch(NamedTuple):
    """Pictures `[batch, channels, high, wide]` and their classes."""

    pixels: Tensor
    classes: Tensor


def weight_descent(parameters: Sequence[nn.Parameter], rate: float, steps: int, decay: float) -> Descent:
    """SGD with Nesterov's momentum on a cosine schedule; weight decay for matrices alone."""
    groups = [
        {"params": [own for own in parameters if own.dim() > 1], "weight_decay": decay},
        {"params": [own for own in parameters if own.dim() <= 1], "weight_decay": 0.0},
    ]
    kept = [group for group in groups if group["params"]]
    return Descent(torch.optim.SGD(kept, lr=rate, momentum=0.9, nesterov=True), Cosine(steps))


@dataclass(frozen=True)
class _Until:
    """One rate up to a step, and none from there on."""

    end: float

    def rate(self, step: int, peak: float) -> float:
        """The rate of a step, from 0."""
        return peak if step < self.end else 0.0


class SoftToHard:
    """The objective of S2HPruner: one loss for the weights and the widths of a network (Lin et al. 2024).

    Formula: L = CE(soft) + c_d/2 [KL(soft* || hard) + KL(soft || hard*)] + c_r (F(K)/F - target)^2 [Lin et al. 2024]

    A star marks what takes no gradient. The first divergence reaches the weights alone, the second the widths
    alone. A channel is scaled where it is read, so that norms cannot undo it, and the hard network is exactly
    the one that `finish` cuts out. The two passes have batch-norm statistics of their own.

        learner = SoftToHard(describe_channels(model, example), SoftToHardSettings(target=0.3), steps=len(batches))
        loop = learner.loop(rate=0.1, decay=5e-4)
        for pixels, classes in batches:
            loop.step((pixels, classes))
        cut = learner.finish(batches[:20])  # model is now the small network
    """

    def __init__(
        self, structure: ChannelStructure, settings: SoftToHardSettings, steps: int, epoch: int | None = None
    ) -> None:
        """steps: how many there will be; epoch: after so many, channels are put in order anew.

        Raises RatioError on a target that cannot be reached.
        """
        self.structure, self.settings, self.steps, self.epoch = structure, settings, steps, epoch
        self.model = structure.model
        self.masks = SoftWidths(structure, settings.target, settings.divisor, settings.start)
        self.readers = _readers(structure)
        self.norms = [module for module in self.model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        self.held = [{kind: _statistics(norm) for kind in ("soft", "hard")} for norm in self.norms]
        self.fixed: dict[str, int] | None = None

    def loop(self, rate: float, decay: float) -> Loop:
        """A loop over both optimizers: SGD for the weights, Adam for the logits of widths."""
        parameters = list(self.model.parameters())
        weights = weight_descent(parameters, rate, self.steps, decay)
        logits = list(self.masks.logits)
        adam = torch.optim.Adam(logits, lr=self.settings.mask_rate, betas=(0.5, 0.999))
        masks = Descent(adam, _Until(self.steps * (1 - self.settings.settled)))
        return Loop([*parameters, *logits], self, [weights, masks], others={"objective": self}, clip=None)

    def __call__(self, batch: Any, step: int) -> dict[str, Tensor]:
        """The loss of `(pixels, classes)`, the soft network's own, and the share of MACs that is left."""
        self._begin(step)
        pixels, classes = _Batch(*batch)
        self.model.train()
        scales = self.masks.keeps()
        soft = self.run(pixels, scales, "soft")
        loss = cross_entropy(soft, classes)
        share = self.masks.share().float()
        resource = self.settings.resource * (share - self.settings.target).square()
        told = {"soft": loss.detach(), "share": share.detach()}
        near = abs(float(share.detach()) - self.settings.target) <= _NEAR
        if self.settings.distill != "none":
            hard = self.run(pixels, self.masks.kept(self.widths()), "hard")
            loss = loss + 0.5 * self.settings.guidance * _divergence(soft.detach(), hard)
            if self.settings.distill == "both" and near and self.fixed is None:
                loss = loss + 0.5 * self.settings.guidance * self._for_masks(soft, hard.detach())
        return {"loss": loss + resource, **told}

    def _for_masks(self, soft: Tensor, hard: Tensor) -> Tensor:
        """A term whose gradient is that of KL(soft || hard*) at the logits of widths, and nothing at the weights."""
        logits = list(self.masks.logits)
        slopes = torch.autograd.grad(_divergence(soft, hard), logits, retain_graph=True)
        return torch.stack([(own * slope).sum() for own, slope in zip(logits, slopes, strict=True)]).sum()

    def widths(self) -> dict[str, int]:
        """The hard widths of now; near the end they are fixed and fit the target."""
        return self.masks.widths() if self.fixed is None else self.fixed

    def _begin(self, step: int) -> None:
        """Before a step: centre the logits, sort channels when an epoch begins, fix the widths near the end."""
        self.masks.centre()
        if self.fixed is None and self.epoch and step and step % self.epoch == 0:
            self.masks.sort()
        if self.fixed is None and step >= self.steps * (1 - self.settings.settled):
            self.fixed = self.masks.fitted()

    def run(self, pixels: Tensor, scales: Scales, kind: str) -> Tensor:
        """The network's output with every channel scaled where it is read, by one kind of batch-norm statistics."""
        with self._reading(scales), self._normed(kind):
            out: Tensor = self.model(pixels)
        return out

    @contextmanager
    def _reading(self, scales: Scales) -> Iterator[None]:
        """Scale what every reading layer is given."""
        handles = []
        for layer, places in self.readers:
            vector = torch.ones(places.width)
            for site, index, units in places.parts:
                vector = vector.index_put((index,), scales[site][units])
            shape = [1] * places.dims + [-1] + [1] * places.after
            hook = _scaled(vector.reshape(shape))
            handles.append(layer.module.register_forward_pre_hook(hook))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _normed(self, kind: str) -> Iterator[None]:
        """Let batch norms use, and update, the statistics of one kind."""
        for norm, held in zip(self.norms, self.held, strict=True):
            norm._buffers.update(held[kind])
        try:
            yield
        finally:
            for norm, held in zip(self.norms, self.held, strict=True):
                norm._buffers.update(held["hard"])  # what the model is left with

    @torch.no_grad()
    def settle_norms(self, batches: Sequence[Any]) -> None:
        """Measure the hard network's batch-norm statistics anew on some batches."""
        scales = self.masks.kept(self.widths())
        momenta = [norm.momentum for norm in self.norms]
        self.model.train()
        for norm, held in zip(self.norms, self.held, strict=True):
            norm.momentum = None  # a plain mean over the batches
            if held["hard"]:
                held["hard"]["num_batches_tracked"].zero_()
        for pixels, _ in batches:
            self.run(pixels, scales, "hard")
        for norm, momentum in zip(self.norms, momenta, strict=True):
            norm.momentum = momentum
        self.model.eval()

    def finish(self, batches: Sequence[Any] = ()) -> Cut:
        """Fix the widths, measure batch norms on some batches, cut the network itself, and return what stays.

        The small network is within the target, and computes what the hard one does.
        """
        cut = self.cut()
        if batches:
            self.settle_norms(batches)
        with self._normed("hard"):
            pass
        self.model.eval()
        self.structure.shrink_(cut)
        return cut

    def cut(self) -> Cut:
        """What is kept at the end; the widths are fixed from now on."""
        self.fixed = self.fixed or self.masks.fitted()
        return self.masks.cut(self.fixed)

    def state(self) -> dict[str, Tensor]:
        """Statistics of both kinds, the order of channels, and the widths that are fixed."""
        tensors = {
            f"norm:{number}:{kind}:{name}": value.clone()
            for number, held in enumerate(self.held)
            for kind, own in held.items()
            for name, value in own.items()
        }
        tensors |= {f"order:{name}": value for name, value in self.masks.order.items()}
        tensors |= {f"fixed:{name}": torch.tensor(width) for name, width in (self.fixed or {}).items()}
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""
        for number, held in enumerate(self.held):
            for kind, own in held.items():
                for name, value in own.items():
                    value.copy_(tensors[f"norm:{number}:{kind}:{name}"])
        self.masks.order = {name: tensors[f"order:{name}"] for name in self.masks.sites}
        fixed = {name: int(tensors[f"fixed:{name}"]) for name in self.masks.sites if f"fixed:{name}" in tensors}
        self.fixed = fixed or None


class _Places(NamedTuple):
    """Where a layer reads channels: parts of (site, places of the input, units); dimensions before and after."""

    width: int
    parts: list[tuple[str, Tensor, Tensor]]
    dims: int
    after: int


def _readers(structure: ChannelStructure) -> list[tuple[Layer, _Places]]:
    """Every layer that reads a site's channels, and at which places of its input."""
    found: dict[str, list[tuple[str, Tensor, Tensor]]] = {}
    for site in structure.sites:
        for name, index in site.columns.items():
            module: Any = structure.layers[name].module
            kernel = getattr(module, "kernel_size", ())
            each = int(torch.tensor(kernel).prod()) if kernel else 1
            places = index[:, ::each] // each  # [count, channels of a unit]
            groups = getattr(module, "groups", 1)
            width = getattr(module, "in_channels", 0) // groups
            if groups > 1:  # the same places of every group
                places = torch.cat([places + width * group for group in range(groups)], dim=1)
            units = torch.arange(site.count)[:, None].expand_as(places)
            found.setdefault(name, []).append((site.name, places.flatten(), units.flatten()))
    readers = []
    for name, parts in found.items():
        layer = structure.layers[name]
        spatial = len(getattr(layer.module, "kernel_size", ()))
        held: Any = layer.module
        width = held.in_channels if spatial else held.in_features
        readers.append((layer, _Places(width, parts, 0, spatial)))
    return readers


def _scaled(vector: Tensor) -> Any:
    def hook(module: Any, args: Any) -> Any:
        return (args[0] * vector, *args[1:])

    return hook


def _statistics(norm: nn.Module) -> dict[str, Tensor]:
    held = {name: getattr(norm, name) for name in _STATISTICS}
    return {name: value.clone() for name, value in held.items() if value is not None}


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher || student) of the class distributions, a mean over the batch."""
    logs = log_softmax(teacher, dim=1), log_softmax(student, dim=1)
    return kl_div(logs[1], logs[0], reduction="batchmean", log_target=True)

"""Parts: what was pruned of a network learns, part after part, to put out what the dense network's does."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from secateur.calibrate.stream import StopForward
from secateur.convnet.trace import evaluating
from secateur.core.errors import InputError
from secateur.train.parametrizations import keep_zeros_
from secateur.train.reconstruct import Reconstruction, fit_

__all__ = ["Parts", "pruned_parts"]


class Parts:
    """The pruned parts of a network, trained one after another.

    Formula: min over W of ||f(x; W) - y||^2 / ||y||^2 [local reconstruction; ours for networks]

    x is what the pruned network's parts before, trained already, put out, and y what the dense network's part puts out
    for the same pictures. Every part has a rate that suits it, and a step costs no more than the part. Zeros stay, and
    batch norms keep their statistics.
    """

    def __init__(self, model: nn.Module, teacher: nn.Module, pixels: Tensor, batch: int = 32) -> None:
        """pixels: `[count, channels, h, w]`, `batch` in a step.

        Raises InputError where the two do not go together, or nothing was pruned.
        """
        self.model, self.teacher = model.eval(), teacher.eval()
        self.example, self.batches = pixels[:1], pixels.split(batch)
        self.names = pruned_parts(model, teacher, self.example)
        self._last: tuple[str, list[Tensor], list[Tensor]] | None = None  # a part, and what both networks' put out
        keep_zeros_(model)

    def parameters(self, count: int) -> dict[str, Tensor]:
        """Those of the first parts, by their names in the network."""
        inside = tuple(f"{part}." if part else "" for part in self.names[:count])
        return {name: own for name, own in self.model.named_parameters() if name.startswith(inside)}

    def train_(self, number: int, settings: Reconstruction, seed: int = 0) -> tuple[float, float]:
        """Train one part, after those before it; the relative error before and after, of the last tenth of pictures."""
        name = self.names[number]
        part, whole = self._part(name), self.teacher.get_submodule(name)
        inputs, full = self._inputs(name)
        with torch.no_grad():
            targets = [whole(x.clone()) for x in full]  # some modules write into what they read
        parameters = list(part.parameters())
        for parameter in parameters:
            parameter.requires_grad_(True)
        error = fit_(parameters, lambda x, y: _relative(part(x.clone()), y), (inputs, targets), settings, seed)
        with torch.no_grad():
            self._last = name, [part(x.clone()) for x in inputs], targets
        return error

    def _part(self, name: str) -> nn.Module:
        return self.model.get_submodule(name)

    def _inputs(self, name: str) -> tuple[list[Tensor], list[Tensor]]:
        """What both networks' parts read: what the last part puts out, or by a run from the pictures on."""
        if self._last is not None and all(_follows(own, self._last[0], name, self.example) for own in self._both):
            return self._last[1:]
        first, second = ([_read(own, name, pixels) for pixels in self.batches] for own in self._both)
        return first, second

    @property
    def _both(self) -> tuple[nn.Module, nn.Module]:
        return self.model, self.teacher


def _relative(made: Tensor, wanted: Tensor) -> Tensor:
    return (made - wanted).square().sum() / wanted.square().sum().clamp_min(1e-20)


@torch.no_grad()
def _read(model: nn.Module, name: str, pixels: Tensor) -> Tensor:
    """What a module is called with; the network runs no further."""
    seen: list[Tensor] = []

    def stop(module: Any, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0])
        raise StopForward

    handle = model.get_submodule(name).register_forward_pre_hook(stop)
    try:
        model(pixels)
    except StopForward:
        pass
    finally:
        handle.remove()
    return seen[0]


@torch.no_grad()
def _follows(model: nn.Module, before: str, name: str, example: Tensor) -> bool:
    """Whether a module reads the very tensor that another puts out, which nothing has written into."""
    out: list[tuple[Tensor, int]] = []
    same: list[bool] = []

    def made(module: Any, args: Any, made: Tensor) -> None:
        out.append((made, made._version))

    def reads(module: Any, args: tuple[Tensor, ...]) -> None:
        same.append(bool(out) and args[0] is out[0][0] and args[0]._version == out[0][1])

    handles = [
        model.get_submodule(before).register_forward_hook(made),
        model.get_submodule(name).register_forward_pre_hook(reads),
    ]
    try:
        model(example)
    finally:
        for handle in handles:
            handle.remove()
    return same == [True]


def pruned_parts(model: nn.Module, teacher: nn.Module, example: Tensor) -> list[str]:
    """The smallest modules around what was pruned that put out tensors of the dense network's shape, none in another.

    A part has two convolutions or linear layers at least, so that one makes up for the other. What only the whole
    network is around, such as a stem, is left to the parts that follow; where there are none, the network is the part,
    and its name ''. Raises InputError where the dense network has other layers, or none of its
    weights is smaller or has more zeros in the pruned one.
    """
    layers = _pruned(model, teacher)
    shapes = [_shapes(network, example) for network in (model, teacher)]
    modules = dict(model.named_modules())
    found: set[str] = set()
    for layer in layers:
        name = layer
        while name and not (name in shapes[0] and shapes[0][name] == shapes[1].get(name) and _pairs(modules[name])):
            name = name.rpartition(".")[0]
        found.add(name)
    if len(found) > 1:
        found.discard("")
    if "" in found and shapes[0][""] != shapes[1][""]:
        raise InputError(f"the teacher puts out {shapes[1]['']}, the network {shapes[0]['']}: take the dense network")
    parts = {name for name in found if not any(_is_inside(name, other) for other in found)}
    return [name for name in shapes[0] if name in parts]  # as they run


def _is_inside(name: str, other: str) -> bool:
    return name != other and (not other or name.startswith(f"{other}."))


def _pairs(module: nn.Module) -> bool:
    """Whether a module has more than one layer that sums over what it reads."""
    return sum(isinstance(own, nn.modules.conv._ConvNd | nn.Linear) for own in module.modules()) > 1


def _pruned(model: nn.Module, teacher: nn.Module) -> list[str]:
    """Modules with a weight that is smaller than the teacher's, or has more zeros."""
    dense = dict(teacher.named_parameters())
    layers: list[str] = []
    for name, own in model.named_parameters():
        if name not in dense:
            raise InputError(f"the teacher has no {name}: take the dense network that was pruned")
        full = dense[name]
        if own.shape != full.shape or int(own.count_nonzero()) < int(full.count_nonzero()):
            layers.append(name.rpartition(".")[0])
    if not layers:
        raise InputError("no weight of the network is smaller than its teacher's, or has more zeros: nothing to learn")
    return layers


@torch.no_grad()
def _shapes(model: nn.Module, example: Tensor) -> dict[str, tuple[int, ...]]:
    """The shape of what every module puts out that is called once with one tensor and puts out one."""
    found: dict[str, list[tuple[int, ...] | None]] = {}

    def told(name: str, module: Any, args: Any, out: Any) -> None:
        alone = len(args) == 1 and isinstance(args[0], Tensor) and isinstance(out, Tensor)
        found.setdefault(name, []).append(tuple(out.shape) if alone else None)

    handles = [module.register_forward_hook(partial(told, name)) for name, module in model.named_modules()]
    try:
        with evaluating(model):
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return {name: calls[0] for name, calls in found.items() if len(calls) == 1 and calls[0] is not None}

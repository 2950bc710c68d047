"""trace(model, example): run a network once and label every channel of everything it computes."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from secateur.convnet.labels import Groups, Labels, LabelTensor, varying
from secateur.convnet.leaves import LEAVES, Leaves
from secateur.convnet.operations import Call, after
from secateur.core.errors import ModelError

__all__ = ["Literal", "Trace", "trace"]

_LARGEST = 1 << 20  # elements of a bare parameter that are labelled one by one


@dataclass(frozen=True, eq=False)
class Literal:
    """A number of channels that a module's own attribute says, where a tensor was split by it.

    part: its place where the attribute is a list; labels: of the channels it counts.
    """

    module: str
    attribute: str
    part: int | None
    labels: LabelTensor


@dataclass(frozen=True, eq=False)
class Trace:
    """What one run told: labels of rows, columns and bare tensors, and which of them belong together.

    rows, columns: of weight-bearing modules by name; bare: of parameters and buffers that
    are used directly, by name. positions: at how many places of one sample each module's
    weight is applied.
    """

    rows: Mapping[str, LabelTensor]
    columns: Mapping[str, LabelTensor]
    bare: Mapping[str, LabelTensor]
    literals: list[Literal]
    positions: Mapping[str, int]
    groups: Groups


@dataclass(eq=False)
class _Run(TorchDispatchMode):
    """The run itself: every operation outside a weight-bearing module tells its labels."""

    model: nn.Module
    labels: Labels = field(default_factory=Labels)
    names: list[str] = field(default_factory=list)
    inside: int = 0

    def __post_init__(self) -> None:
        super().__init__()
        self.leaves = Leaves(self.labels)
        self.known: dict[int, tuple[Tensor, LabelTensor]] = {}  # tensors are kept, so that no id is used twice
        self.bare: dict[str, LabelTensor] = {}
        self.literals: list[Literal] = []
        self.shared: set[str] = set()  # modules whose weights are used outside them
        self.owned, self.named = _named_tensors(self.model)

    def labels_of(self, value: Any) -> LabelTensor | None:
        """The labels of a tensor; a bare parameter or buffer gets one for each element when it is first used."""
        if not isinstance(value, Tensor):
            return None
        if id(value) in self.known:
            return self.known[id(value)][1]
        name = self.named.get(id(value))
        if name is None or not 1 < value.numel() <= _LARGEST or not value.is_floating_point():
            return None
        self.bare[name] = self.labels.fresh(value.numel()).reshape(value.shape)
        self.note(value, self.bare[name])
        return self.bare[name]

    def note(self, value: Any, labels: LabelTensor | None) -> None:
        """Remember the labels of a tensor."""
        if isinstance(value, Tensor) and labels is not None:
            self.known[id(value)] = (value, labels)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if self.inside:
            return out
        self._touch(args)
        where = self.names[-1] if self.names else ""
        call = Call(func, args, kwargs or {}, out, self.labels_of, where or type(self.model).__name__)
        result = _filter(call, self.labels) if call.name == "convolution" else after(call, self.labels)
        if isinstance(out, Tensor):
            self.note(out, result if isinstance(result, Tensor) else None)
        elif isinstance(out, list | tuple) and isinstance(result, list | tuple):
            for value, labels in zip(out, result, strict=False):
                self.note(value, labels)
        if call.name in ("split", "split_with_sizes") and isinstance(result, list):
            self._literals(call, result)
        return out

    def _touch(self, args: Any) -> None:
        """A module's own weight that is used outside it holds that module's rows and columns."""
        for leaf in tree_leaves(args):
            if isinstance(leaf, Tensor) and id(leaf) in self.owned:
                self.shared.add(self.owned[id(leaf)])

    def _literals(self, call: Call, parts: list[Any]) -> None:
        """Attributes of the modules that are running which say the sizes of a split."""
        sizes = call.args[1]
        every = [_channels(part) for part in parts]
        whole = torch.cat(every)
        for name in reversed(self.names):
            for attribute, value in vars(self.model.get_submodule(name)).items():
                if type(value) is int and value == sizes:
                    self.literals.append(Literal(name, attribute, None, every[0]))
                elif type(value) is int and value == len(whole) and len(parts) > 1:
                    self.literals.append(Literal(name, attribute, None, whole))
                elif isinstance(value, list | tuple) and isinstance(sizes, list) and list(value) == sizes:
                    for part, own in enumerate(every):
                        self.literals.append(Literal(name, attribute, part, own))
            return

    def enter(self, name: str) -> Callable[[Any, Any], None]:
        def hook(module: Any, args: Any) -> None:
            self.names.append(name)
            self.inside += _is_leaf(module)

        return hook

    def leave(self, name: str) -> Callable[[Any, Any, Any], None]:
        def hook(module: Any, args: Any, out: Any) -> None:
            self.names.pop()
            self.inside -= _is_leaf(module)
            if _is_leaf(module) and not self.inside:
                self.note(out, self.leaves.ran(name, module, self.labels_of(args[0]), args[0], out))

        return hook


def trace(model: nn.Module, example: Tensor) -> Trace:
    """Run the network on `[batch, ...]` and tell what belongs together.

    Works on whatever runs: nothing is traced symbolically. Operations that are not known
    freeze what they read. Raises ModelError where the model does not run on the example.
    """
    run = _Run(model)
    with torch.no_grad(), ExitStack() as stack:
        for name, module in model.named_modules():
            stack.callback(module.register_forward_pre_hook(run.enter(name), prepend=True).remove)
            stack.callback(module.register_forward_hook(run.leave(name)).remove)
        stack.enter_context(evaluating(model))
        try:
            with run:
                out = model(example)
        except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
            where = next((name for name in reversed(run.names) if name), type(model).__name__)
            shape = "x".join(str(size) for size in example.shape)
            raise ModelError(f"{type(model).__name__} does not run on {shape} input, at {where}: {error}") from error
    for value in tree_leaves(out):
        run.labels.freeze(run.labels_of(value), "the model's output")
    for name in run.shared:
        for own in (run.leaves.rows.get(name), run.leaves.columns.get(name)):
            run.labels.freeze(own, f"{name}, whose weight is used outside it")
    groups, leaves = run.labels.groups(), run.leaves
    for name, own in run.bare.items():
        free = groups.free(own)
        if len(varying(free)) > 1:
            groups.freeze(free, f"{name}, whose channels lie along several dimensions")
    return Trace(leaves.rows, leaves.columns, run.bare, run.literals, leaves.positions, groups)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, and each module back in its own afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _is_leaf(module: nn.Module) -> bool:
    return any(kind in LEAVES for kind in type(module).__mro__)


def _named_tensors(model: nn.Module) -> tuple[dict[int, str], dict[int, str]]:
    """By id: the module whose own weight a tensor is, and the name of every other parameter and buffer."""
    leaves = {name: module for name, module in model.named_modules() if _is_leaf(module)}
    owned = {id(value): name for name, module in leaves.items() for value in module.parameters(recurse=False)}
    every = (*model.named_parameters(), *model.named_buffers())
    return owned, {id(value): name for name, value in every if id(value) not in owned}


def _channels(labels: LabelTensor | None) -> LabelTensor:
    """One label for each channel of a part: along the only dimension in which they differ."""
    if labels is None:
        return torch.empty(0, dtype=torch.long)
    return torch.unique(labels)


def _filter(call: Call, labels: Labels) -> LabelTensor | None:
    """A convolution by a bare tensor: one that filters every channel by itself passes labels on."""
    given, weight = call.args[:2]
    own, filters = call.labels_of(given), call.labels_of(weight)
    if own is None or filters is None or not call.args[8] == len(weight) == given.shape[1]:
        for part in (own, filters):
            labels.freeze(part, f"convolution in {call.where}")
        return None
    dims = [dim for dim in range(given.dim()) if dim != 1]
    one = labels.join_along(own, dims)
    labels.join(one.flatten(), labels.join_along(filters, range(1, filters.dim())).flatten())
    return one.expand(call.out.shape)

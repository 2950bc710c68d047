"""read_steps(model, example): a network as convolutions, pools, sums and scales, batch norms folded into weights."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from secateur.core.errors import ModelError

__all__ = ["Graph", "Step", "read_steps"]

_ACTIVATIONS = {
    "aten.relu.default": "relu",
    "aten.relu6.default": "relu6",
    "aten.hardswish.default": "hardswish",
    "aten.hardsigmoid.default": "hardsigmoid",
    "aten.sigmoid.default": "sigmoid",
    "aten.silu.default": "silu",
}
_SAME = ("aten.clone.default", "aten.dropout.default", "aten.alias.default", "aten.contiguous.default")
_FLAT = ("aten.view.default", "aten.flatten.using_ints", "aten.reshape.default", "aten.squeeze.dims")


@dataclass
class Step:
    """One operation: kind is conv, depthwise, pool, add or scale; then `other` is added, then the activation.

    shape: channels, rows and columns of the result. weight: `[out, in, kh, kw]` and bias `[out]` in float64.
    pads: zeros at the left, right, top and bottom of the source. layer: the module whose weight it is.
    """

    kind: str
    source: str
    shape: tuple[int, int, int]
    other: str | None = None
    act: str = "none"
    weight: Tensor | None = None
    bias: Tensor | None = None
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    layer: str = ""


class Graph(NamedTuple):
    """Steps in the order in which they run, by the name of what they make; the names of input and output."""

    steps: Mapping[str, Step]
    input: str
    output: str


def read_steps(model: nn.Module, example: Tensor) -> Graph:
    """The steps of a classifier that is called with `[1, channels, h, w]`.

    Raises ModelError naming the operation where one is no such step.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about torch
            exported = torch.export.export(model.eval(), (example,)).run_decompositions({})
    except Exception as error:  # export raises what it likes
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{type(model).__name__} cannot run in blocks: torch.export says {why}") from error
    signature = exported.graph_signature
    held: dict[str, Any] = {**exported.state_dict, **exported.constants}
    owned = {spec.arg.name: spec.target for spec in signature.input_specs if spec.target is not None}
    if len(signature.user_inputs) != 1 or len(signature.user_outputs) != 1:
        raise ModelError(f"{type(model).__name__} cannot run in blocks: it has several inputs or outputs")
    reader = _Reader({name: held[target].detach() for name, target in owned.items()}, owned)
    for node in exported.graph.nodes:
        if node.op == "call_function":
            reader.read(node)
    output = str(signature.user_outputs[0])
    return Graph(reader.steps, str(signature.user_inputs[0]), reader.names.get(output, output))


class _Reader:
    """Turns nodes of an exported graph into steps, in order."""

    def __init__(self, values: Mapping[str, Tensor], owned: Mapping[str, str]) -> None:
        self.values, self.owned = values, owned
        self.steps: dict[str, Step] = {}
        self.names: dict[str, str] = {}  # nodes that are what another step makes
        self.padded: dict[str, tuple[str, tuple[int, ...]]] = {}
        kinds: Mapping[str, Callable[[Any, list[Any]], None]] = {
            "aten.pad.default": self._pad,
            "aten.constant_pad_nd.default": self._pad,
            "aten.conv2d.default": self._convolution,
            "aten._native_batch_norm_legit_no_training.default": self._norm,
            "aten.linear.default": self._linear,
            "aten.hardtanh.default": self._clamp,
            "aten.add.Tensor": self._add,
            "aten.mul.Tensor": self._scale,
            "aten.adaptive_avg_pool2d.default": self._pool,
            "aten.mean.dim": self._pool,
        }
        self.kinds = kinds

    def read(self, node: Any) -> None:
        """Take up one node. Raises ModelError where it is no step."""
        target, args = str(node.target), [self._argument(value) for value in node.args]
        if target in self.kinds:
            self.kinds[target](node, args)
        elif target in _ACTIVATIONS:
            self._activate(node, args[0], _ACTIVATIONS[target])
        elif target in _SAME or "getitem" in target:
            self.names[node.name] = args[0]
        elif target in _FLAT and _shape(node.args[0])[1:] == (1, 1) and _shape(node) == _shape(node.args[0]):
            self.names[node.name] = args[0]
        else:
            raise _refused(node)

    def _argument(self, value: Any) -> Any:
        if not isinstance(value, torch.fx.Node):
            return value
        return self.values.get(value.name, self.names.get(value.name, value.name))

    def _pad(self, node: Any, args: list[Any]) -> None:
        sides, rest = tuple(args[1]), args[2:]
        if len(sides) != 4 or min(sides) < 0 or any(extra not in ("constant", 0, None) for extra in rest):
            raise _refused(node)
        self.padded[node.name] = (args[0], sides)

    def _convolution(self, node: Any, args: list[Any]) -> None:
        usual: list[Any] = [None, None, None, [1, 1], [0, 0], [1, 1], 1]
        source, weight, bias, stride, padding, dilation, groups = args + usual[len(args) :]
        sides = (padding[1], padding[1], padding[0], padding[0])
        if source in self.padded:
            source, zeros = self.padded[source]
            sides = tuple(one + two for one, two in zip(sides, zeros, strict=True))
        if groups > 1 and (groups != len(weight) or weight.shape[1] != 1):
            raise _refused(node, "with groups of several channels")
        self.steps[node.name] = Step(
            "depthwise" if groups > 1 else "conv",
            source,
            _shape(node),
            weight=weight.double(),
            bias=torch.zeros(len(weight)).double() if bias is None else bias.double(),
            stride=tuple(stride),
            dilation=tuple(dilation),
            pads=sides,
            layer=self._owner(node),
        )

    def _linear(self, node: Any, args: list[Any]) -> None:
        source, weight, bias = [*args, None][:3]
        own = torch.zeros(len(weight)) if bias is None else bias
        if len(node.args[0].meta["val"].shape) != 2:
            raise _refused(node, "of more than a vector a picture")
        step = Step("conv", source, (len(weight), 1, 1), layer=self._owner(node))
        step.weight, step.bias = weight.double()[:, :, None, None], own.double()
        self.steps[node.name] = step

    def _norm(self, node: Any, args: list[Any]) -> None:
        source, gain, shift, mean, variance, _, eps = args
        scale = (variance.double() + eps).rsqrt() * (1 if gain is None else gain.double())
        offset = (0 if shift is None else shift.double()) - mean.double() * scale
        step = self._alone(node.args[0])
        if step is None or step.kind not in ("conv", "depthwise") or step.other or step.act != "none":
            shape = _shape(node.args[0])
            step = Step("depthwise", source, shape, weight=torch.ones(shape[0], 1, 1, 1).double())
            step.bias = torch.zeros(shape[0]).double()
            self.steps[node.name] = step
        else:
            self.names[node.name] = source
        assert step.weight is not None and step.bias is not None
        step.weight = step.weight * scale[:, None, None, None]
        step.bias = step.bias * scale + offset

    def _clamp(self, node: Any, args: list[Any]) -> None:
        if args[1:] != [0.0, 6.0]:
            raise _refused(node, f"between {args[1:]}")
        self._activate(node, args[0], "relu6")

    def _activate(self, node: Any, source: str, act: str) -> None:
        step = self._alone(node.args[0])
        if step is not None and step.act == "none":
            step.act, self.names[node.name] = act, source
        else:
            self.steps[node.name] = Step("add", source, _shape(node), act=act)

    def _add(self, node: Any, args: list[Any]) -> None:
        one, two = args[:2]
        if (
            not (isinstance(one, str) and isinstance(two, str))
            or node.kwargs
            or _shape(node.args[0]) != _shape(node.args[1])
        ):
            raise _refused(node, "of other things than two tensors of one shape")
        places = {name: place for place, name in enumerate(self.steps)}
        late, early = sorted((one, two), key=lambda name: -places.get(name, -1))
        owner = node.args[0] if late == one else node.args[1]
        step = self._alone(owner)
        if late != early and step is not None and step.kind == "conv" and not step.other and step.act == "none":
            step.other, self.names[node.name] = early, late
        else:
            self.steps[node.name] = Step("add", one, _shape(node), other=two)

    def _scale(self, node: Any, args: list[Any]) -> None:
        one, two = args[:2]
        if not (isinstance(one, str) and isinstance(two, str)):
            raise _refused(node, "of a tensor and a number")
        shapes = _shape(node.args[0]), _shape(node.args[1])
        if shapes[0][1:] == (1, 1):
            one, two, shapes = two, one, shapes[::-1]
        if shapes[1] not in (shapes[0], (shapes[0][0], 1, 1)):
            raise _refused(node, f"of shapes {shapes[0]} and {shapes[1]}")
        self.steps[node.name] = Step("scale", one, _shape(node), other=two)

    def _pool(self, node: Any, args: list[Any]) -> None:
        size = args[1]
        mean = "mean" in str(node.target)
        whole = sorted(dim % 4 for dim in size) == [2, 3] if mean else all(side == 1 for side in _pair(size))
        if not whole or len(node.args[0].meta["val"].shape) != 4:
            raise _refused(node, "of less than a whole picture")
        self.steps[node.name] = Step("pool", args[0], (_shape(node)[0], 1, 1))

    def _owner(self, node: Any) -> str:
        return self.owned.get(node.args[1].name, "").rpartition(".")[0]

    def _alone(self, node: Any) -> Step | None:
        """The step that makes a node, where nothing else reads it."""
        return self.steps.get(self.names.get(node.name, node.name)) if len(node.users) == 1 else None


def _shape(node: Any) -> tuple[int, int, int]:
    """Channels, rows and columns of a node's value; a vector has one row and column."""
    value = node.meta["val"]
    value = value[0] if isinstance(value, tuple | list) else value
    sizes = [int(size) for size in value.shape]
    if len(sizes) not in (2, 4) or sizes[0] != 1:
        raise _refused(node, f"of shape {sizes}")
    return (sizes[1], 1, 1) if len(sizes) == 2 else (sizes[1], sizes[2], sizes[3])


def _pair(size: Any) -> tuple[Any, ...]:
    return tuple(size) if isinstance(size, list | tuple) else (size,)


def _refused(node: Any, how: str = "") -> ModelError:
    return ModelError(f"the network cannot run in blocks: operation {node.target} {how}".rstrip())

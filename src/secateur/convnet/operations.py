"""What every operation does to labels: it moves them, joins them, passes them on, or freezes them."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from secateur.convnet.labels import NOTHING, Labels, LabelTensor, first_along

__all__ = ["Call", "Result", "after"]

Result = LabelTensor | Sequence[LabelTensor | None] | None


class Call(NamedTuple):
    """One operation as it ran: what it was given and returned, and the labels of what it was given."""

    function: Any
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    out: Any
    labels_of: Callable[[Any], LabelTensor | None]
    where: str

    @property
    def name(self) -> str:
        """The operation's name, without overload or the _ of what works in place."""
        name = str(self.function.overloadpacket).removeprefix("aten.")
        return name.removesuffix("_") if self.mutates else name

    @property
    def mutates(self) -> bool:
        """Whether the first argument is overwritten."""
        return bool(self.function._schema.is_mutable)

    @property
    def given(self) -> list[LabelTensor]:
        """The labels of every labelled argument."""
        every = (self.labels_of(leaf) for leaf in tree_leaves((self.args, dict(self.kwargs))))
        return [labels for labels in every if labels is not None]


def after(call: Call, labels: Labels) -> Result:
    """The labels of an operation's output; NOTHING is labelled where no channel is passed on."""
    if not call.given:
        return None
    rule = _RULES.get(call.name)
    if rule is None and torch.Tag.pointwise in call.function.tags:
        rule = _pointwise
    return (rule or _unknown)(call, labels)


def _unknown(call: Call, labels: Labels) -> Result:
    for given in call.given:
        labels.freeze(given, f"{call.name} in {call.where}")
    return None


def _same(call: Call, labels: Labels) -> Result:
    return call.labels_of(call.args[0])


def _constant(call: Call, labels: Labels) -> Result:
    """A tensor of the shape of another, and of nothing else that it holds."""
    return None


def _restrided(call: Call, labels: Labels) -> Result:
    """A tensor of one shape in another layout in memory."""
    return _same(call, labels) if call.out.shape == call.args[0].shape else _unknown(call, labels)


def _pointwise(call: Call, labels: Labels) -> Result:
    """Elements at one place belong together."""
    if call.mutates and len(call.given) > 1 and _is_part(call.args[0]):
        return _unknown(call, labels)  # the tensor it is a part of would have to learn of it
    shape = call.out.shape
    spread = [given.expand(shape) for given in call.given]
    labels.join(*spread)
    if call.name == "add" and len(spread) > 1 and not any(isinstance(leaf, nn.Parameter) for leaf in call.args):
        labels.added(spread[0])
    result = spread[0]
    for other in spread[1:]:
        if bool((result == NOTHING).any()):
            result = torch.where(result == NOTHING, other, result)
    return result


def _is_part(tensor: Tensor) -> bool:
    return tensor._is_view() and tensor._base is not None and tensor._base.numel() != tensor.numel()


def _moved(call: Call, labels: Labels) -> Any:
    """Run the operation on labels: it only moves elements, or drops some."""

    def swap(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        own = call.labels_of(leaf)
        return torch.full(leaf.shape, NOTHING) if own is None else own

    args, kwargs = tree_map(swap, (tuple(call.args), dict(call.kwargs)))
    return call.function(*args, **kwargs)


def _padded(call: Call, labels: Labels) -> Result:
    own = call.labels_of(call.args[0])
    return None if own is None else torch.constant_pad_nd(own, call.args[1], NOTHING)


def _split(call: Call, labels: Labels) -> Result:
    """Equal parts lose equal places; parts whose sizes are listed are left to the trial run."""
    parts = _moved(call, labels)
    dim = _dim(call, 2)
    if call.name == "split":
        for part in parts[1:]:
            if part.shape[dim] == parts[0].shape[dim]:
                labels.join(parts[0], part)
            else:
                labels.freeze(call.labels_of(call.args[0]), f"uneven split in {call.where}")
    return list(parts)


def _picked(call: Call, labels: Labels) -> Result:
    """`select` and `unbind` take one place of a dimension, so that all its places belong together."""
    own = call.labels_of(call.args[0])
    if own is not None:
        labels.join_along(own, [_dim(call, 1)])
    return list(_moved(call, labels)) if call.name == "unbind" else _moved(call, labels)


def _sliced(call: Call, labels: Labels) -> Result:
    """A part of a dimension: its places repeat along the whole, in runs of its length, or of its step."""
    own, part = call.labels_of(call.args[0]), _moved(call, labels)
    if own is None or own.shape == part.shape:
        return part
    dim = _dim(call, 1)
    size, step = own.shape[dim], call.args[4] if len(call.args) > 4 else 1
    width = part.shape[dim] if step == 1 else step
    if own.stride(dim) == 0:
        return part
    if width == 0 or size % width or (step == 1 and call.args[2] % width):
        labels.freeze(own, f"slice in {call.where}")
        return part
    runs = own.unflatten(dim, (size // width, width))
    labels.join_along(runs, [dim if step == 1 else dim + 1])
    return part


def _viewed(call: Call, labels: Labels) -> Result:
    """A dimension seen as several: the same places are removed of every run of the last."""
    own = call.labels_of(call.args[0])
    if own is None:
        return None
    view = own.reshape(call.out.shape)
    for _, into in _factors(own.shape, call.out.shape):
        long = [dim for dim in into if call.out.shape[dim] > 1]
        if len(long) > 1:
            labels.join_along(view, long[:-1])
    return view


def _factors(before: Sequence[int], shape: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Dimensions before and after a view, in the smallest runs of equal product; only one that is split."""
    pairs: list[tuple[list[int], list[int]]] = []
    left = right = 0
    while left < len(before) and right < len(shape):
        one, other = [left], [right]
        left, right = left + 1, right + 1
        while prod(before[i] for i in one) != prod(shape[i] for i in other):
            if prod(before[i] for i in one) < prod(shape[i] for i in other) and left < len(before):
                one.append(left)
                left += 1
            elif right < len(shape):
                other.append(right)
                right += 1
            else:
                return pairs
        pairs.append((one, other))
    return pairs


def _reduced(call: Call, labels: Labels) -> Result:
    """What is summed up belongs together."""
    own = call.labels_of(call.args[0])
    if own is None:
        return None
    shape = (call.out[0] if isinstance(call.out, tuple) else call.out).shape
    given = call.args[1] if len(call.args) > 1 and not isinstance(call.args[1], bool) else None
    chosen = [given] if isinstance(given, int) else given
    dims = [dim % own.dim() for dim in (chosen or range(own.dim()))]
    one = labels.join_along(own, dims).reshape(shape)
    return [one, None] if isinstance(call.out, tuple) else one


def _normalised(call: Call, labels: Labels) -> Result:
    """A softmax or a running sum along one dimension, which stays."""
    own = call.labels_of(call.args[0])
    if own is not None:
        labels.join_along(own, [call.args[1] % own.dim()])
    return own


def _layer_norm(call: Call, labels: Labels) -> Result:
    own = call.labels_of(call.args[0])
    if own is not None:
        labels.join_along(own, range(own.dim() - len(call.args[1]), own.dim()))
    return [own, None, None]


def _spatial(dims: int) -> Callable[[Call, Labels], Result]:
    def pooled(call: Call, labels: Labels) -> Result:
        """What stands at the pixels of one channel belongs together, and is passed on."""
        own = call.labels_of(call.args[0])
        if own is None:
            return None
        first = call.out[0] if isinstance(call.out, tuple) else call.out
        one = labels.join_along(own, range(own.dim() - dims, own.dim())).expand(first.shape)
        return [one, None] if isinstance(call.out, tuple) else one

    return pooled


def _product(call: Call, labels: Labels) -> Result:
    """A product of two activations `[..., n, m] @ [..., m, p]`: what is summed over stays.

    Without a channel of both the sum is another, and no column that would be zero says so (q and k of an attention).
    """
    left, right = (call.labels_of(leaf) for leaf in call.args[-2:])
    if call.name in ("addmm", "baddbmm") and call.labels_of(call.args[0]) is not None:
        return _unknown(call, labels)
    reason = f"product in {call.where}"
    if left is not None and _varies(left, -1) and _varies(left, -2):
        return _unknown(call, labels)
    if right is not None and _varies(right, -1) and _varies(right, -2):
        return _unknown(call, labels)
    summed = [
        None if given is None or not _varies(given, dim) else first_along(given, [other])
        for given, dim, other in ((left, -1, -2), (right, -2, -1))
    ]
    for part in summed:
        labels.freeze(part, reason)
    kept = [
        None if given is None or not _varies(given, dim) else first_along(given, [other])
        for given, dim, other in ((left, -2, -1), (right, -1, -2))
    ]
    if kept[0] is not None and kept[1] is not None:
        return _unknown(call, labels)
    one = kept[0] if kept[0] is not None else kept[1]
    return None if one is None else one.expand(call.out.shape)


def _varies(labels: LabelTensor, dim: int) -> bool:
    return labels.stride(dim) != 0 and bool((labels != first_along(labels, [dim])).any())


def _attention(call: Call, labels: Labels) -> Result:
    """Softmax(q k^T) v: q and k stay, since their width scales the product; v is passed on."""
    query, key, value = (call.labels_of(leaf) for leaf in call.args[:3])
    for given in (query, key):
        labels.freeze(given, f"attention in {call.where}")
    first = call.out[0] if isinstance(call.out, tuple) else call.out
    one = None if value is None else labels.join_along(value, [-2 % value.dim()]).expand(first.shape)
    return [one, *[None] * (len(call.out) - 1)] if isinstance(call.out, tuple) else one


def _dim(call: Call, place: int) -> int:
    """The dimension that stands at this place of the arguments; the first where it is left out."""
    dim = call.args[place] if len(call.args) > place else call.kwargs.get("dim", 0)
    return int(dim) % call.args[0].dim()


_RULES: Mapping[str, Callable[[Call, Labels], Result]] = {
    **dict.fromkeys(("clone", "detach", "alias", "contiguous", "_to_copy", "lift_fresh", "dropout"), _same),
    **dict.fromkeys(
        ("permute", "transpose", "t", "expand", "unsqueeze", "squeeze", "cat", "stack", "roll", "flip", "repeat"),
        _moved,
    ),
    **dict.fromkeys(("pixel_shuffle", "pixel_unshuffle", "channel_shuffle"), _moved),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias"), _viewed),
    **dict.fromkeys(("split", "split_with_sizes"), _split),
    **dict.fromkeys(("select", "unbind"), _picked),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "max", "min", "var", "std", "prod", "logsumexp"), _reduced),
    **dict.fromkeys(("linalg_vector_norm",), lambda call, labels: _reduced(_without(call, 1), labels)),
    **dict.fromkeys(("_softmax", "_log_softmax", "cumsum"), _normalised),
    **dict.fromkeys(("avg_pool1d", "adaptive_avg_pool1d", "max_pool1d", "reflection_pad1d"), _spatial(1)),
    **dict.fromkeys(("upsample_nearest1d", "upsample_linear1d", "replication_pad1d"), _spatial(1)),
    **dict.fromkeys(("avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool2d", "max_pool2d"), _spatial(2)),
    **dict.fromkeys(("max_pool2d_with_indices", "adaptive_max_pool2d", "fractional_max_pool2d"), _spatial(2)),
    **dict.fromkeys(("upsample_nearest2d", "_upsample_nearest_exact2d", "upsample_bilinear2d"), _spatial(2)),
    **dict.fromkeys(("upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"), _spatial(2)),
    **dict.fromkeys(("reflection_pad2d", "replication_pad2d"), _spatial(2)),
    **dict.fromkeys(("avg_pool3d", "_adaptive_avg_pool3d", "max_pool3d_with_indices"), _spatial(3)),
    **dict.fromkeys(("bmm", "mm", "addmm", "baddbmm"), _product),
    **dict.fromkeys(
        (
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_flash_attention",
            "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_fused_attention_overrideable",
        ),
        _attention,
    ),
    **dict.fromkeys(("hardswish", "hardsigmoid", "hardtanh", "leaky_relu", "elu", "celu", "selu"), _pointwise),
    **dict.fromkeys(("where", "masked_fill", "gelu", "silu", "relu6", "mish", "softplus", "threshold"), _pointwise),
    **dict.fromkeys(("zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones"), _constant),
    **dict.fromkeys(("new_empty", "new_full", "rand_like", "randn_like"), _constant),
    "as_strided": _restrided,
    "constant_pad_nd": _padded,
    "slice": _sliced,
    "native_layer_norm": _layer_norm,
    "copy": _pointwise,
}


def _without(call: Call, place: int) -> Call:
    """The call without one of its arguments."""
    return call._replace(args=[*call.args[:place], *call.args[place + 1 :]])

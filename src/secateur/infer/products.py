"""Products: every multiplication of an activation by a parameter, seen while a model runs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["Product", "Products", "Read"]


def _grouped(name: str) -> Any:
    """A function that older versions of torch lack."""
    return getattr(F, name, getattr(torch, name, None))


_LINEAR: frozenset[Any] = frozenset({F.linear, torch._C._nn.linear})
_MATMUL: frozenset[Any] = frozenset(
    {
        *(torch.matmul, torch.mm, torch.bmm, torch.Tensor.matmul, torch.Tensor.mm, torch.Tensor.bmm),
        *(torch.Tensor.__matmul__, torch.Tensor.__rmatmul__),
        *(
            getattr(place, name)
            for place in (F, torch)
            for name in ("grouped_mm", "_grouped_mm")
            if hasattr(place, name)
        ),
    }
)
_ADDED: frozenset[Any] = frozenset({torch.addmm, torch.baddbmm, torch.Tensor.addmm, torch.Tensor.baddbmm})


class Product(NamedTuple):
    """Which matrix a product multiplies by.

    parameter: its name in the model. number: which matrix of a 3-D parameter; None where it is all of a 2-D one.
    """

    parameter: str
    number: int | None = None


class Read(NamedTuple):
    """One product as it is made: the matrix, whether it is stored as `[in, out]`, and the tensor it reads.

    x: `[..., in]`. source: equal for two products that read the same values of one tensor.
    """

    product: Product
    turned: bool
    x: Tensor
    source: tuple[Any, ...]


class _Operands(NamedTuple):
    """Two factors of a product, and the dimension of each that is summed over."""

    left: Tensor
    right: Tensor
    left_dim: int = -1
    right_dim: int = -2


class Products(TorchFunctionMode):
    """Tells of every product by a matrix of these parameters, before it is made; computes nothing else.

    seen: called with each `Read`; it may raise to end the run. odd: names of parameters that were multiplied in a
    way no matrix `[out, in]` describes.
    """

    def __init__(self, parameters: Mapping[str, Tensor], seen: Callable[[Read], None]) -> None:
        """Know the parameters by where their values lie."""
        super().__init__()
        self.odd: set[str] = set()
        self._seen = seen
        self._places = {tensor.untyped_storage().data_ptr(): (name, tensor) for name, tensor in parameters.items()}

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Look at a function's arguments, then call it."""
        kwargs = kwargs or {}
        operands = _operands(func, args, kwargs)
        if operands is not None:
            for read in self._reads(operands):
                self._seen(read)
        return func(*args, **kwargs)

    def _reads(self, operands: _Operands) -> Iterator[Read]:
        left, right, left_dim, right_dim = operands
        if (found := self._places.get(_place(right))) is not None:
            yield from self._by(*found, right, left.movedim(left_dim, -1), right_dim)
        elif (found := self._places.get(_place(left))) is not None:
            yield from self._by(*found, left, right.movedim(right_dim, -1), left_dim)

    def _by(self, name: str, held: Tensor, used: Tensor, x: Tensor, dim: int) -> Iterator[Read]:
        width = used.shape[dim]
        turned = _turned(held, used, dim)
        stacked = held.dim() == 3 and used.dim() == 3 and len(used) == len(held)
        if turned is None or x.shape[-1] != width or not (stacked or used.dim() == 2):
            self.odd.add(name)
            return
        source = (_place(x), x.storage_offset(), x.numel(), x._version)
        if not stacked:
            index = None if held.dim() == 2 else (used.storage_offset() - held.storage_offset()) // held.stride(0)
            yield Read(Product(name, index), turned, x, (*source, index))
            return
        for index in range(len(held)):  # one batched product by all matrices
            own = x[index] if x.dim() == 3 and len(x) == len(held) else x
            yield Read(Product(name, index), turned, own[_given(own)], (*source, index))


def _given(x: Tensor) -> Tensor:
    """Rows that are not all zero: a batched product gets zeros for tokens that another matrix is for."""
    return x.ne(0).any(dim=-1)


def _place(tensor: Tensor) -> int:
    return 0 if tensor.device.type == "meta" else tensor.untyped_storage().data_ptr()


def _turned(held: Tensor, used: Tensor, dim: int) -> bool | None:
    """Whether a parameter is stored as `[in, out]`, from the dimension that is summed over; None where neither fits."""
    if held.dim() not in (2, 3) or used.dim() < 2:
        return None
    size = used.shape[dim]
    rows, columns = held.shape[-2], held.shape[-1]
    if rows == columns == size:  # only strides tell a square matrix from its transpose
        return used.stride(dim) != held.stride(-1)
    if size == columns:
        return False
    return True if size == rows else None


def _operands(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> _Operands | None:
    """The factors of a call, where it is a product of tensors."""
    if func in _LINEAR:
        values = [*args, *(kwargs[name] for name in ("input", "weight") if name in kwargs)]
        return _checked(values[:2], -1, -1)
    if func in _MATMUL:
        values = [*args, *(kwargs[name] for name in ("input", "other", "mat2") if name in kwargs)]
        return _checked(values[:2][::-1] if func is torch.Tensor.__rmatmul__ else values[:2], -1, -2)
    if func in _ADDED:
        return _checked(list(args[1:3]), -1, -2)
    return _einsum(args) if func is torch.einsum else None


def _checked(values: Sequence[Any], left_dim: int, right_dim: int) -> _Operands | None:
    if len(values) != 2 or not all(isinstance(value, Tensor) and value.dim() >= 2 for value in values):
        return None
    return _Operands(values[0], values[1], left_dim, right_dim)


def _einsum(args: Sequence[Any]) -> _Operands | None:
    """Two factors with one letter that the result lacks; batch letters of both must come first."""
    tensors = args[1] if len(args) == 2 and isinstance(args[1], list | tuple) else args[1:]
    if not isinstance(args[0], str) or "->" not in args[0] or len(tensors) != 2:
        return None
    factors, result = args[0].replace(" ", "").split("->")
    left, right = factors.split(",")
    summed = [letter for letter in left if letter in right and letter not in result]
    if len(summed) != 1 or "." in args[0]:
        return None
    return _checked(tensors, left.index(summed[0]) - len(left), right.index(summed[0]) - len(right))

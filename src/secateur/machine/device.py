"""Where tensors are computed: the device, and whether half precision pays there."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from secateur.core.errors import InputError

__all__ = ["HalfProducts", "autocasting", "half_pays", "pick_device"]

_ROUNDS = 5
_SHAPE = (512, 576, 1536)  # tokens, in, out: a small model's, so that a large one's gain is at least as much


def pick_device(name: str = "auto") -> torch.device:
    """The device of a name such as cpu, cuda, cuda:1 or mps; auto takes the GPU that is there.

    Raises InputError for a device that is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():  # torchrun tells every process of a machine its number there
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} is not there: {str(error).splitlines()[0]}; take auto or cpu") from error
    return device


def half_pays(device: torch.device) -> bool:
    """Whether a product in bfloat16 takes less time than one in float32 here, measured.

    Some processors multiply bfloat16 three times as fast, others a hundred times slower.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    tokens, into, out = _SHAPE
    pair = [(torch.randn(tokens, into, device=device), torch.randn(into, out, device=device))]
    pair.append((pair[0][0].bfloat16(), pair[0][1].bfloat16()))
    wide, half = (min(_seconds(x, y) for _ in range(_ROUNDS)) for x, y in pair)
    return half < 0.8 * wide  # the casts cost something too


def _seconds(x: Tensor, y: Tensor) -> float:
    started = time.perf_counter()
    float((x @ y)[0, 0])  # waits for the device
    return time.perf_counter() - started


class HalfProducts(TorchFunctionMode):
    """Inside, float32 inputs and weights of linear layers are multiplied in bfloat16; all else stays in float32."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The product of a linear layer, or whatever else is asked."""
        more = dict(kwargs or {})
        if func is linear and len(args) >= 2:
            (x, weight), bias = args[:2], args[2] if len(args) > 2 else more.get("bias")
        elif func is torch.addmm and len(args) == 3 and not more:  # transformers' Conv1D
            bias, x, weight = args
        else:
            return func(*args, **more)
        if {x.dtype, weight.dtype} != {torch.float32}:
            return func(*args, **more)
        x, weight = x.bfloat16(), weight.bfloat16()
        out = (linear(x, weight) if func is linear else x @ weight).float()
        return out if bias is None else out + bias


@contextmanager
def autocasting(device: torch.device, *, half: bool) -> Iterator[None]:
    """Products in bfloat16 inside, where `half` says so."""
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
        yield

"""Adam whose two moments take two bytes each: logits of masks are one and a half numbers a weight."""

import ctypes
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.compiled import library
from secateur.masks.masking import SOURCE

__all__ = ["HalfAdam"]


class HalfAdam(torch.optim.Optimizer):
    """Adam with moments in bfloat16 and parameters in float32; no decay.

    Formula: m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; x -= rate m^ / (sqrt(v^) + eps) [Kingma & Ba 2015]

    Needs a second beta that moves v by more than bfloat16 rounds, such as 0.95. The rounding is to the nearest.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.95),
        epsilon: float = 1e-8,
    ) -> None:
        """lr: the highest rate. epsilon: keeps steps of tiny gradients finite."""
        super().__init__(parameters, {"lr": lr, "betas": betas, "epsilon": epsilon})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, group)

    def _step(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["first"] = torch.zeros_like(parameter, dtype=torch.bfloat16)
            state["second"] = torch.zeros_like(parameter, dtype=torch.bfloat16)
        state["step"] += 1
        done, (beta1, beta2) = float(state["step"]), group["betas"]
        scales = 1 / (1 - beta1**done), 1 / (1 - beta2**done)  # moments start at zero
        first, second, gradient = state["first"], state["second"], parameter.grad
        assert gradient is not None
        native = library(SOURCE) if parameter.device.type == "cpu" and parameter.is_contiguous() else None
        if native is not None and gradient.is_contiguous() and parameter.dtype == gradient.dtype == torch.float32:
            tensors = (parameter, gradient, first, second)
            numbers = (group["lr"], beta1, beta2, *scales, group["epsilon"])
            native.adam_step(
                ctypes.c_int64(parameter.numel()),
                *(ctypes.c_void_p(each.data_ptr()) for each in tensors),
                *(ctypes.c_float(number) for number in numbers),
                torch.get_num_threads(),
            )
            return
        first.copy_(beta1 * first.float() + (1 - beta1) * gradient)
        second.copy_(beta2 * second.float() + (1 - beta2) * gradient.square())
        root = (second.float() * scales[1]).sqrt_().add_(group["epsilon"])
        parameter.addcdiv_(first.float() * scales[0], root, value=-group["lr"])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved state; torch would give the moments the parameter's dtype."""
        super().load_state_dict(state_dict)
        for own in self.state.values():
            for name in ("first", "second"):
                own[name] = own[name].to(torch.bfloat16)

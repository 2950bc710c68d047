"""Experts under transformers' common interface: what one of them computes for given tokens."""

from typing import Any

import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from secateur.core.shapes import Activations

__all__ = ["expert_inputs", "expert_output", "is_experts"]

_MARKS = ("has_gate", "has_bias", "is_transposed", "num_experts", "down_proj")  # set by use_experts_implementation


def is_experts(module: nn.Module) -> bool:
    """Whether a module holds the experts of a layer in stacked parameters, behind transformers' interface."""
    return all(hasattr(module, mark) for mark in _MARKS)


def expert_inputs(module: Any, x: Activations, expert: int) -> dict[str, Tensor]:
    """What each stacked parameter of an expert reads for these tokens, by the parameter's name."""
    up = "gate_up_proj" if module.has_gate else "up_proj"
    wide = _product(module, up, x, expert)
    return {up: x, "down_proj": module._apply_gate(wide) if module.has_gate else module.act_fn(wide)}


def expert_output(module: Any, x: Activations, expert: int) -> Activations:
    """An expert's output for these tokens, before the router's weight."""
    out = _product(module, "down_proj", expert_inputs(module, x, expert)["down_proj"], expert)
    return module.post_expert_norm(out) if getattr(module, "has_post_expert_norm", False) else out


def _product(module: Any, name: str, x: Tensor, expert: int) -> Tensor:
    weight = getattr(module, name)[expert]
    bias = getattr(module, f"{name}_bias")[expert] if module.has_bias else None
    return F.linear(x, weight.T if module.is_transposed else weight, bias)

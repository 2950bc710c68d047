"""ONNX with past keys and values, for ONNX Runtime."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from secateur.core.errors import InputError

__all__ = ["write_onnx"]


class _Flat(nn.Module):
    """The model with its cache as plain tensors: k and v of every block, in order."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, past: list[Tensor]) -> tuple[Tensor, ...]:
        cache = DynamicCache()
        for number in range(len(past) // 2):
            cache.update(past[2 * number], past[2 * number + 1], number)
        seen = past[0].shape[2]
        positions = torch.arange(seen, seen + input_ids.shape[1])[None]
        made = self.model(input_ids, past_key_values=cache, position_ids=positions, use_cache=True)
        flat = [tensor for layer in made.past_key_values.layers for tensor in (layer.keys, layer.values)]
        return (made.logits, *flat)


def write_onnx(model: PreTrainedModel, out: Path) -> None:
    """Write model.onnx: input_ids `[batch, seq]` and past k, v in, logits and present k, v out.

    Raises InputError when the onnx extra is missing.
    """
    try:
        import onnx  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise InputError("writing ONNX needs its package: pip install secateur[onnx]") from error
    ids = torch.tensor([[3, 4, 5], [6, 7, 8]]) % model.config.vocab_size
    with torch.no_grad():
        cache: Any = model(ids, use_cache=True).past_key_values
    past = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    names = [f"{kind}_{number}" for number in range(len(cache.layers)) for kind in ("key", "value")]
    batch, seq, seen = (torch.export.Dim(name) for name in ("batch", "seq", "seen"))
    torch.onnx.export(
        _Flat(model).eval(),
        (ids, past),
        str(out / "model.onnx"),
        input_names=["input_ids", *(f"past_{name}" for name in names)],
        output_names=["logits", *(f"present_{name}" for name in names)],
        dynamic_shapes=({0: batch, 1: seq}, [{0: batch, 2: seen} for _ in past]),
        dynamo=True,
        external_data=True,
    )

"""ONNX for ONNX Runtime: decoders with past keys and values, and one forward pass of any model."""

import copy
import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from secateur.adapt.structure import describe, kind_of
from secateur.core.errors import InputError, ModelError, first_line
from secateur.surgery.heads import add_silent_heads_

__all__ = ["write_forward_onnx", "write_onnx"]


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
    _need_onnx()
    # Two rows: torch's exporter takes a size of 1 for a constant.
    ids = torch.tensor([[3, 4, 5], [6, 7, 8]]) % model.config.vocab_size
    with torch.no_grad():
        cache: Any = model(ids, use_cache=True).past_key_values
    past = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    names = [f"{kind}_{number}" for number in range(len(cache.layers)) for kind in ("key", "value")]
    batch, seq, seen = (torch.export.Dim(name) for name in ("batch", "seq", "seen"))
    _export(
        _Flat(model),
        (ids, past),
        out,
        input_names=["input_ids", *(f"past_{name}" for name in names)],
        output_names=["logits", *(f"present_{name}" for name in names)],
        dynamic_shapes=({0: batch, 1: seq}, [{0: batch, 2: seen} for _ in past]),
    )


class _Logits(nn.Module):
    """The model from named tensors to logits, or to those of a span's first and last token."""

    def __init__(self, model: PreTrainedModel, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        out = self.model(**dict(zip(self.names, inputs, strict=True)), **self.switches())
        if self.spans():
            return out.start_logits, out.end_logits
        logits: Tensor = out.logits
        return logits

    def spans(self) -> bool:
        """Whether the model points at a span of its text."""
        return type(self.model).__name__.endswith("ForQuestionAnswering")

    def switches(self) -> dict[str, Any]:
        """Without a cache, where the class has one."""
        return {"use_cache": False} if getattr(self.model.config, "use_cache", None) is not None else {}


def write_forward_onnx(model: PreTrainedModel, batch: Mapping[str, Tensor], out: Path) -> None:
    """Write model.onnx: one forward pass, from ids and masks `[batch, seq]` to logits, without a cache.

    Models of multiple choice read `[batch, choices, seq]`, and those of questions put out two logits.

    batch: an example of what the model is called with; labels of a translation become
    `decoder_input_ids`. Attentions without heads get one that says nothing. Raises
    InputError when the onnx extra is missing.
    """
    _need_onnx()
    model = copy.deepcopy(model)  # silent heads are for the file, not for the caller's model
    if kind_of(model.config) is not None:
        add_silent_heads_(describe(model))
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = batch["labels"].clamp_min(0)
    rows, seq, target, choices = (torch.export.Dim(name) for name in ("batch", "seq", "target", "choices"))
    shapes = []
    for name, value in inputs.items():
        length = target if name.startswith("decoder") else seq
        if value.dim() == 3 and not value.is_floating_point():
            shapes.append({0: rows, 1: choices, 2: seq})
        else:
            shapes.append({0: rows, 1: length} if value.dim() == 2 else {0: rows})
    if len(next(iter(inputs.values()))) == 1:  # a batch of one would be written as one for ever
        inputs = {name: value.repeat(2, *[1] * (value.dim() - 1)) for name, value in inputs.items()}
    whole = _Logits(model, list(inputs))
    _export(
        whole,
        tuple(inputs.values()),
        out,
        input_names=list(inputs),
        output_names=["start_logits", "end_logits"] if whole.spans() else ["logits"],
        dynamic_shapes=(tuple(shapes),),
    )


def _export(model: nn.Module, example: tuple[Any, ...], out: Path, **names: Any) -> None:
    """Run torch's exporter without what it tells of itself. Raises ModelError where it cannot follow the model."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = str(out / "model.onnx")
            torch.onnx.export(model.eval(), example, path, dynamo=True, external_data=True, verbose=False, **names)
    except torch.onnx.OnnxExporterError as error:
        raise ModelError(f"torch cannot export this model to ONNX: {_plain(error)}") from error
    finally:
        exporter.setLevel(level)


def _plain(error: Exception) -> str:
    """The first line of an error's cause, without a terminal's colours."""
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    return re.sub(r"\x1b\[[0-9;]*m", "", first_line(cause))


def _need_onnx() -> None:
    try:
        import onnx  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise InputError("writing ONNX needs its package: pip install 'secateur[onnx]'") from error

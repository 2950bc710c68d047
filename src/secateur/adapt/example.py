"""What a model of any kind is called with, made up, and what it puts out, as one tensor."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.core.seed import generator

__all__ = ["example_batch", "outputs_of", "picture_shape"]

_SIDE = 224  # pixels of a picture where a config names no size


def example_batch(model: PreTrainedModel, tokens: int = 3) -> dict[str, Tensor]:
    """Two samples, drawn by a fixed seed, of what the model is called with; labels too where it writes text."""
    config: Any = model.config
    stream = generator(0, "example", tokens)
    if model.main_input_name == "pixel_values":
        return {"pixel_values": torch.rand((2, *picture_shape(config)), generator=stream)}
    if model.main_input_name == "input_values":  # a quarter of a second of sound
        return {"input_values": torch.randn((2, 4000), generator=stream)}
    ids = torch.randint(config.vocab_size, (2, tokens), generator=stream)  # [samples, tokens]
    labels = {"labels": ids[:, :2].contiguous()} if _takes_labels(model) else {}
    if model.main_input_name == "input_features":
        shape = (2, config.num_mel_bins, 2 * config.max_source_positions)
        return {"input_features": torch.randn(shape, generator=stream), **labels}
    if type(model).__name__.endswith("ForMultipleChoice"):
        ids = ids[:, None].expand(-1, 2, -1).contiguous()  # [samples, choices, tokens]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **labels}


def picture_shape(config: Any) -> tuple[int, int, int]:
    """Channels, height and width of a picture, off the config or that of its vision part."""
    own = getattr(config, "vision_config", None) or config
    size = getattr(own, "image_size", None) or _SIDE
    high, wide = (size, size) if isinstance(size, int) else size
    return int(getattr(own, "num_channels", None) or getattr(own, "in_channels", None) or 3), int(high), int(wide)


@torch.no_grad()
def outputs_of(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Tensor:
    """What a model puts out, called with a batch without its targets: logits, those of both ends, or hidden states."""
    left = {"targets"} if _takes_labels(model) else {"targets", "labels"}
    out = model(**{name: value for name, value in batch.items() if name not in left})
    if "start_logits" in out:
        return torch.stack([out.start_logits, out.end_logits], dim=-1)
    found: Tensor = out.logits if "logits" in out else out[0]
    return found


def _takes_labels(model: PreTrainedModel) -> bool:
    """Whether a decoder reads the labels; elsewhere they only make a loss."""
    return bool(model.config.is_encoder_decoder) and "labels" in inspect.signature(model.forward).parameters

"""describe_decoder(model): the structure of a model, by its table row, or read off what it computes."""

from contextlib import suppress
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from secateur.adapt.block import Block
from secateur.adapt.structure import ModelKind, Structure, describe, kind_of
from secateur.core.errors import ModelError, first_line
from secateur.infer.blocks import bare_blocks, probe_samples, reads_pictures
from secateur.infer.light import light_weights
from secateur.infer.stages import staged
from secateur.infer.units import unit_sites

__all__ = ["describe_any", "describe_decoder", "infer", "record"]


def describe_decoder(model: PreTrainedModel) -> Structure:
    """A language model's structure: by the table where that has its family, else by `infer`."""
    kind = kind_of(model.config)
    return describe(model) if kind is not None and kind.causal else infer(model)


def describe_any(model: PreTrainedModel) -> Structure:
    """The structure of a model of any kind: by a table, or by `infer` where none has its family.

    Raises ModelError for models that read neither token ids alone nor pictures alone.
    """
    if type(model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() or kind_of(model.config) is None:
        return describe_decoder(model)
    return describe(model)


def infer(model: PreTrainedModel) -> Structure:
    """The structure of any model that reads token ids or pictures, from one run on a few; its weights are untouched.

    Raises ModelError where the model cannot be run so, or multiplies by no matrix.
    """
    _run_experts_one_by_one(model)
    return Structure(model, _INFERRED, _inferred_blocks(model))


def record(structure: Structure) -> dict[str, Any]:
    """What was found, for people: every block's stages in order, and matrices that no stage has."""
    blocks = {}
    for block in structure.blocks:
        held = {layer.tensor for layer in block.layers}
        left = [name for name, value in block.tensors().items() if value.dim() > 1 and name not in held]
        stages = [{"step": stage.step, "layers": [layer.name for layer in stage.layers]} for stage in block.stages]
        blocks[block.name or "the whole model"] = {"stages": stages, "left": left}
    return {"whole": structure.blocks[0].whole, "blocks": blocks}


def _run_experts_one_by_one(model: PreTrainedModel) -> None:
    """Let experts multiply by one matrix after another, as their own class writes it, so that products show."""
    with suppress(ValueError, KeyError):  # classes without a choice do so anyway
        model.set_experts_implementation("eager")


@torch.no_grad()
def _inferred_blocks(model: PreTrainedModel) -> tuple[Block, ...]:
    try:
        samples = probe_samples(model)
        with light_weights(model):
            blocks = staged(model, bare_blocks(model, samples), samples)
    except Exception as error:  # a model of unknown kind may raise anything
        name, said = type(model).__name__, first_line(error)
        what = "pictures" if reads_pictures(model) else "token ids"
        raise ModelError(f"{name} cannot be run on {what} alone, so its structure cannot be read: {said}") from error
    if not any(block.stages for block in blocks):
        name, hint = type(model).__name__, "; docs/networks.md prunes convolutions" if reads_pictures(model) else ""
        raise ModelError(f"{name} multiplies hidden states by no matrix of its blocks, so nothing can be pruned{hint}")
    return blocks


def _nothing(*_: object) -> None:
    """What an inferred model needs done where its sizes change: it has one size alone."""


_INFERRED = ModelKind(
    causal=True,
    blocks=_inferred_blocks,
    lists_sizes=lambda config: False,
    resize_=_nothing,
    settle_=_nothing,
    config=lambda document, config, blocks: document,
    inferred=True,
    sites=unit_sites,
)

"""More blocks stored than the config asks for: they would be left out, or carried along dense, without a word."""

import re
from collections.abc import Iterable

from torch import nn
from transformers import PreTrainedModel

from secateur.core.errors import ModelError

__all__ = ["check_block_count"]

_NUMBERED = re.compile(r"(.+?)\.(\d+)\.")


def check_block_count(model: PreTrainedModel, names: Iterable[str], source: object) -> None:
    """Refuse a checkpoint that holds a block at or beyond the model's number of them.

    names: tensors of the checkpoint. Only numbers in a list of the model's count: buffers, heads and parts that the
    model has not, and what its class expects beyond its blocks (layers that predict further tokens), are accepted.
    Raises ModelError naming the first such tensor.
    """
    # Loading passes over tensors it has no place for: a model with blocks left out would load without a word.
    expected = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_unexpected or ()]
    for name in names:
        numbered = _NUMBERED.match(name)
        if numbered is None:
            continue
        count = _count(model, numbered.group(1))
        if count is not None and int(numbered.group(2)) >= count and not any(p.search(name) for p in expected):
            raise ModelError(
                f"{source} holds {name!r}, and its config asks for {count} blocks there: set the config's number of "
                "blocks to those that are stored, or remove the tensors of the others"
            )


def _count(model: PreTrainedModel, place: str) -> int | None:
    """How many modules the list at a place holds, named with the body's prefix or without; None where it is no list."""
    prefix = f"{model.base_model_prefix}."
    for candidate in (place, prefix + place, place.removeprefix(prefix)):
        try:
            modules = model.get_submodule(candidate)
        except AttributeError:
            continue
        if isinstance(modules, nn.ModuleList):
            return len(modules)
    return None

"""A config with fewer experts, and what its class then builds smaller: so what is cut is read off the class itself."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from secateur.core.errors import ModelError, first_line, last_line
from secateur.infer.blocks import probe_samples, run_body
from secateur.infer.experts import is_experts
from secateur.infer.light import light_weights
from secateur.infer.smaller import Part, Place, changed, rebuilt, with_fields

__all__ = ["Smaller", "smaller_model"]

# What a field that holds another number of experts says.
_OTHERS = ("tok", "shared", "group", "top", "zero", "layer", "period", "offset")


@dataclass(frozen=True, eq=False)
class Smaller:
    """A model class with fewer experts: its config document, and which dimension of which tensor becomes smaller."""

    document: dict[str, Any]
    model: PreTrainedModel
    parts: Mapping[str, Part]


def smaller_model(model: PreTrainedModel, document: dict[str, Any], count: int, kept: int) -> Smaller:
    """The class of a model with `kept` instead of `count` experts in every layer, without weights.

    Raises ModelError where no field of the config says how many experts there are, or the class cannot do with fewer.
    """
    reasons: list[str] = []
    for fields in _choices(document, model.config, count):
        smaller = with_fields(document, dict.fromkeys(fields, kept))
        try:
            built = rebuilt(smaller, model)
        except Exception as error:  # strict configs and classes raise many kinds
            reasons.append(last_line(error)[:200])
            continue
        stacks = [module for module in built.modules() if is_experts(module)]
        if stacks and all(module.num_experts == kept for module in stacks):
            sizes = changed(model, built, count - kept)
            _check_runs(built, kept)
            return Smaller(smaller, built, {name: Part(dim, (size,)) for name, (dim, size) in sizes.items()})
    why = f" ({reasons[0]})" if reasons else ""
    raise ModelError(
        f"no field of the {model.config.model_type} config gives every layer {kept} instead of {count} experts{why}"
    )


def _choices(document: dict[str, Any], config: PretrainedConfig, count: int) -> Iterator[list[Place]]:
    """Places in the config that may hold the number of experts: all of them together, then each alone."""
    found = list(_places(config, count))
    if found:
        yield found
        for place in found if len(found) > 1 else []:
            yield [place]


def _places(config: Any, count: int, above: Place = ()) -> Iterator[Place]:
    renamed = set(getattr(config, "attribute_map", {}))
    for name, value in config.to_dict().items():
        inner = getattr(config, name, None)
        if isinstance(inner, PretrainedConfig):
            yield from _places(inner, count, (*above, name))
        elif type(value) is int and value == count and name not in renamed and "expert" in name:
            if not any(word in name for word in _OTHERS):
                yield (*above, name)


@torch.no_grad()
def _check_runs(built: PreTrainedModel, kept: int) -> None:
    """Whether the class routes among so few experts. Raises ModelError where it does not."""
    try:
        with light_weights(built):
            run_body(built, probe_samples(built))
    except Exception as error:  # a router may ask for more experts than there are
        first = first_line(error)[:200]
        raise ModelError(f"{type(built).__name__} cannot route tokens among {kept} experts: {first}") from error

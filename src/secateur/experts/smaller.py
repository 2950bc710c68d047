"""A config with fewer experts, and what its class then builds smaller: so what is cut is read off the class itself."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from secateur.core.errors import ModelError
from secateur.core.files import write_document
from secateur.infer.experts import is_experts
from secateur.infer.light import light_weights

__all__ = ["Expert", "Smaller", "smaller_model"]

_OTHERS = ("tok", "shared", "group", "top", "zero", "token")  # what a field that holds another number of experts says


@dataclass(frozen=True)
class Expert:
    """Which dimension of a tensor holds something for every expert: the first `count * size` entries of it."""

    dim: int
    size: int

    def cut(self, tensor: Tensor, kept: list[int], count: int) -> Tensor:
        """What stays of the tensor; entries behind the experts' stay."""
        runs = torch.tensor(kept)[:, None] * self.size + torch.arange(self.size)
        behind = torch.arange(count * self.size, tensor.shape[self.dim])
        return tensor.index_select(self.dim, torch.cat([runs.flatten(), behind]))


@dataclass(frozen=True, eq=False)
class Smaller:
    """A model class with fewer experts: its config document, and which dimension of which tensor becomes smaller."""

    document: dict[str, Any]
    model: PreTrainedModel
    parts: Mapping[str, Expert]


def smaller_model(model: PreTrainedModel, document: dict[str, Any], count: int, kept: int) -> Smaller:
    """The class of a model with `kept` instead of `count` experts in every layer, without weights.

    Raises ModelError where no field of the config says how many experts there are, or the class cannot do with fewer.
    """
    reasons: list[str] = []
    for fields in _choices(document, model.config, count):
        changed = _with(document, fields, kept)
        try:
            built = _built(changed, model)
        except Exception as error:  # strict configs and classes raise many kinds
            reasons.append((str(error).strip().splitlines() or [type(error).__name__])[-1][:200])
            continue
        stacks = [module for module in built.modules() if is_experts(module)]
        if stacks and all(module.num_experts == kept for module in stacks):
            parts = _parts(model, built, count, kept)
            _check_runs(built, kept)
            return Smaller(changed, built, parts)
    why = f" ({reasons[0]})" if reasons else ""
    raise ModelError(
        f"no field of the {model.config.model_type} config gives every layer {kept} instead of {count} experts{why}"
    )


def _choices(document: dict[str, Any], config: PretrainedConfig, count: int) -> Iterator[list[tuple[str, ...]]]:
    """Places in the config that may hold the number of experts: all of them together, then each alone."""
    found = list(_places(config, count))
    if found:
        yield found
        for place in found if len(found) > 1 else []:
            yield [place]


def _places(config: Any, count: int, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    renamed = set(getattr(config, "attribute_map", {}))
    for name, value in config.to_dict().items():
        inner = getattr(config, name, None)
        if isinstance(inner, PretrainedConfig):
            yield from _places(inner, count, (*above, name))
        elif type(value) is int and value == count and name not in renamed and "expert" in name:
            if not any(word in name for word in _OTHERS):
                yield (*above, name)


def _with(document: dict[str, Any], fields: list[tuple[str, ...]], kept: int) -> dict[str, Any]:
    changed = dict(document)
    for *above, name in fields:
        inner = changed
        for key in above:
            inner[key] = dict(inner.get(key) or {})
            inner = inner[key]
        inner[name] = kept
    return changed


def _built(document: dict[str, Any], model: PreTrainedModel) -> PreTrainedModel:
    from accelerate import init_empty_weights

    with TemporaryDirectory() as folder:  # only a file is read with all that configs may say, such as infinity
        write_document(Path(folder) / "config.json", document)
        config: Any = type(model.config).from_pretrained(folder)
    config.use_cache = False
    with init_empty_weights(include_buffers=False):
        built: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    built.tie_weights()
    return built.eval().requires_grad_(False)


def _parts(model: PreTrainedModel, built: PreTrainedModel, count: int, kept: int) -> dict[str, Expert]:
    dense, parts = model.state_dict(), dict[str, Expert]()
    for name, value in built.state_dict().items():
        if name not in dense:
            raise ModelError(f"{type(model).__name__} with {kept} experts has a tensor {name!r} that the model lacks")
        sizes = list(zip(dense[name].shape, value.shape, strict=True))
        changed = [dim for dim, (before, after) in enumerate(sizes) if before != after]
        if changed:
            (before, after) = sizes[changed[0]]
            size, rest = divmod(before - after, count - kept)
            if len(changed) > 1 or rest or size < 1:
                raise ModelError(f"{name} is {[*dense[name].shape]}, and {[*value.shape]} with {kept} experts")
            parts[name] = Expert(changed[0], size)
    return parts


@torch.no_grad()
def _check_runs(built: PreTrainedModel, kept: int) -> None:
    """Whether the class routes among so few experts. Raises ModelError where it does not."""
    from secateur.infer.blocks import probe_ids

    try:
        with light_weights(built):
            built.base_model(probe_ids(built), use_cache=False)
    except Exception as error:  # a router may ask for more experts than there are
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{type(built).__name__} cannot route tokens among {kept} experts: {first[:200]}") from error

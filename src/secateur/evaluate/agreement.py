"""verify_folders(dense, pruned): how far a shrunk folder is from its masked dense model, or the zeros of a folder."""

from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from secateur.adapt.example import example_batch, outputs_of
from secateur.adapt.positions import max_length
from secateur.adapt.structure import Structure
from secateur.core.cut import Cut
from secateur.core.errors import DisagreementError, InputError
from secateur.core.files import read_document
from secateur.core.mask import Masks
from secateur.core.seed import generator
from secateur.core.shapes import Samples
from secateur.infer.blocks import probe_samples, reads_pictures
from secateur.score.gates import gated
from secateur.storage.shards import Checkpoint
from secateur.storage.source import Source, open_whole, resolve
from secateur.surgery.verify import Agreement, difference, verify

__all__ = ["Zeros", "verify_folders"]

_OF_FILES = {"_name_or_path", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version"}


class Zeros(NamedTuple):
    """A model whose removed weights are 0: layers that lost some, weights of those layers, and how many are removed."""

    layers: int
    weights: int
    removed: int


def verify_folders(dense: str | Path | Source, pruned: str | Path | Source, *, tokens: int = 64) -> Agreement | Zeros:
    """Compare two model folders on random token ids or pictures, in float32.

    What was pruned is read from cut.json (heads, channels), blocks.json (whole blocks) or masks.safetensors (single
    weights) of `pruned`. Where single weights went, every removed one must be 0 and all other parameters the dense
    model's, unless the model was trained afterwards. Raises InputError when it has no such file or another dense
    model's, DisagreementError naming the first block, layer or parameter that differs.
    """
    sources = resolve(dense), resolve(pruned)
    cut, blocks, masks = (sources[1].folder / name for name in ("cut.json", "blocks.json", "masks.safetensors"))
    if not any(file.exists() for file in (cut, blocks, masks)):
        raise InputError(
            f"{pruned} has no cut.json, blocks.json or masks.safetensors: only models that were pruned can be verified"
        )
    inferred = (sources[1].folder / "structure.json").exists()
    wide, small = (open_whole(source, torch.float32, inferred=inferred) for source in sources)
    types = [f"{one.model.config.model_type} ({type(one.model).__name__})" for one in (wide, small)]
    _round_(wide, Checkpoint(sources[1].folder))
    if types[0] != types[1]:
        kinds = f"{dense} is a {types[0]}, {pruned} a {types[1]}"
        raise InputError(f"{kinds}: they are no pair")
    if not cut.exists() and not blocks.exists():
        return _verify_zeros(sources[1].folder, wide, small)
    if not cut.exists():
        return _verify_blocks(wide, small, read_document(blocks).get("kept"), tokens)
    kept = Cut.load(cut)
    if not wide.kind.causal:
        return _verify_heads(wide, small, kept, tokens)
    return verify(wide, small, wide.sites_of(list(kept.kept)), kept, _samples(wide, tokens))


def _verify_zeros(folder: Path, wide: Structure, small: Structure) -> Zeros:
    """Removed weights are 0, masks are those the run tells of, and what no mask names is the dense model's own."""
    masks = Masks.load(folder / "masks.safetensors")
    layers = {layer.name: layer for layer in small.layers}
    gone = {name: int((~keep).sum()) for name, keep in masks.keep.items()}
    for name, keep in masks.keep.items():
        if name not in layers or keep.shape != small.shape(name):
            raise InputError(f"masks.safetensors has {name!r} of shape {list(keep.shape)}: the model has no such layer")
        stray = int(layers[name].weight[~keep].count_nonzero())
        if stray:
            raise DisagreementError(f"{stray} of the weights that {name} lost are not 0: they were changed afterwards")
    told = read_document(folder / "result.json") if (folder / "result.json").exists() else {}
    _check_told(told.get("layers"), gone)
    recipe = told.get("recipe") or {}
    whole = recipe.get("reconstruct") is not None or recipe.get("match") is not None  # they change the rest of a block
    changed = {
        name
        for block in small.blocks
        for layer in block.layers
        if gone.get(layer.name) or (whole and any(gone.get(one.name) for one in block.layers))
        for name in (layer.tensor, f"{layer.name}.bias")
    }
    if (folder / "recover.json").exists():  # training changes layers of blocks alone
        changed |= {name for layer in small.layers for name in (layer.tensor, f"{layer.name}.bias")}
    _check_rest(wide, small, changed)
    lost = [name for name, count in gone.items() if count]
    return Zeros(len(lost), sum(masks.keep[name].numel() for name in lost), sum(gone.values()))


def _check_told(layers: Any, gone: Mapping[str, int]) -> None:
    """As many weights are gone of every layer as a run's result says, where it says so."""
    for layer in layers if isinstance(layers, list) else ():
        if isinstance(layer, dict) and {"name", "sparsity", "weights"} <= layer.keys():
            name, lost = layer["name"], round(layer["sparsity"] * layer["weights"])
            if abs(gone.get(name, 0) - lost) > 1:
                raise DisagreementError(
                    f"{name} lost {lost} weights by result.json, and {gone.get(name, 0)} by its mask"
                )


def _check_rest(wide: Structure, small: Structure, changed: Set[str]) -> None:
    """Every other parameter and field of the config is the dense model's, and what changed is finite.

    Raises DisagreementError naming the first that is not.
    """
    theirs, own = (dict(structure.model.named_parameters()) for structure in (wide, small))
    for name in {**theirs, **own}:
        if name in changed and name in own:
            if not own[name].isfinite().all() or (name in theirs and own[name].shape != theirs[name].shape):
                raise DisagreementError(f"{name} holds NaN or inf, or has another shape than the dense model's")
        elif not _same(own.get(name), theirs.get(name)):
            raise DisagreementError(f"{name} differs from the dense model's, and no mask says that it was pruned")
    biases = small.bias_fields  # a method may have switched them on
    dense, pruned = (structure.model.config.to_dict() for structure in (wide, small))
    for key in sorted({*dense, *pruned} - _OF_FILES - {*biases}):
        if dense.get(key) != pruned.get(key):
            raise DisagreementError(f"config.json says {key} {pruned.get(key)!r}, the dense model's {dense.get(key)!r}")


def _same(own: Tensor | None, like: Tensor | None) -> bool:
    return own is not None and like is not None and own.shape == like.shape and torch.equal(own, like)


def _round_(dense: Structure, pruned: Checkpoint) -> None:
    """Round the dense weights to what the pruned ones are stored as, where that is one dtype: no difference of note."""
    dtypes = {dtype for name in pruned.names() if (dtype := pruned.info(name)[0]).is_floating_point}
    if len(dtypes) == 1:
        for parameter in dense.model.parameters():
            parameter.data = parameter.to(next(iter(dtypes))).to(parameter.dtype)


def _samples(structure: Structure, tokens: int) -> Samples:
    model: Any = structure.model
    if reads_pictures(model):
        return probe_samples(model)
    length = min(tokens, max_length(model.config) or tokens)
    words = len(model.get_input_embeddings().weight)
    return torch.randint(words, (1, length), generator=generator(0, "verify", tokens))


@torch.no_grad()
def _verify_blocks(wide: Structure, small: Structure, kept: Any, tokens: int) -> Agreement:
    """The same for a model that has lost whole blocks: the dense one skips them."""
    blocks = wide.blocks
    # Blocks.json may have been edited by hand.
    rising = isinstance(kept, list) and all(type(number) is int for number in kept) and kept == sorted(set(kept))
    if not rising or not kept or not 0 <= kept[0] <= kept[-1] < len(blocks):
        raise InputError(f"blocks.json keeps {kept!r}, and the dense model has {len(blocks)} blocks: they are no pair")
    if len(small.blocks) != len(kept):
        raise InputError(f"blocks.json keeps {len(kept)} blocks, the model has {len(small.blocks)}")
    samples = _samples(wide, tokens)
    for number, block in enumerate(blocks):
        if number not in kept:
            block.module.forward = _skipped(tuples=block.returns_pair)  # an attribute of the instance hides the method
    cached = {} if reads_pictures(wide.model) else {"use_cache": False}
    apart = difference(*(structure.model(samples, **cached)[0] for structure in (wide, small)))
    if not apart <= 1e-3:
        raise DisagreementError(
            f"logits differ from those of the dense model without its other blocks by {apart:.2g} of the largest, "
            "allowed is 0.001: the folders do not belong together, or weights were trained after the cut"
        )
    return Agreement(apart, [apart])


def _skipped(*, tuples: bool) -> Callable[..., Any]:
    return lambda hidden, *rest, **named: (hidden, None) if tuples else hidden


@torch.no_grad()
def _verify_heads(wide: Structure, small: Structure, cut: Cut, tokens: int, *, tolerance: float = 1e-3) -> Agreement:
    """The same for a model that has lost heads alone: gates at 0 stand in for them; logits are compared."""
    found = wide.attentions
    kept = {name.rpartition(".")[0]: indices for name, indices in cut.kept.items()}
    strange = kept.keys() - {attention.name for attention in found}
    if strange:
        raise InputError(
            f"cut names attention {min(strange)!r}, which the model does not have, such as {found[0].name!r}"
        )
    gates = [torch.ones(attention.heads) for attention in found]
    for gate, attention in zip(gates, found, strict=True):
        if attention.name in kept:
            gate.zero_()[list(kept[attention.name])] = 1.0  # [heads]
    batch = example_batch(wide.model, min(tokens, max_length(wide.model.config) or tokens))
    with gated(found, gates):
        expected = outputs_of(wide.model, batch)
    apart = difference(expected, outputs_of(small.model, batch))
    if not apart <= tolerance:
        raise DisagreementError(
            f"logits differ from the dense model's with gates at 0 by {apart:.2g} of the largest, allowed is "
            f"{tolerance:g}: the folders do not belong together, or weights were trained after the cut"
        )
    return Agreement(apart, [apart])

"""verify_folders(dense, pruned) -> how far a shrunk folder is from its masked dense model."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from secateur.adapt.adapter import Adapter
from secateur.adapt.encoder_table import ENCODERS, attentions, example_batch
from secateur.adapt.positions import max_length
from secateur.adapt.sites import all_sites
from secateur.adapt.source import Source, load_with_head, resolve
from secateur.core.cut import Cut
from secateur.core.errors import DisagreementError, InputError
from secateur.core.files import read_document
from secateur.core.seed import generator
from secateur.core.shapes import TokenIds
from secateur.score.gates import gated
from secateur.surgery.verify import Agreement, difference, verify

__all__ = ["verify_folders"]


def verify_folders(dense: str | Source, pruned: str | Source, *, tokens: int = 64) -> Agreement:
    """Compare two model folders on random token ids, in float32.

    What was pruned is read from cut.json (heads, channels) or blocks.json (whole blocks) of `pruned`. Raises InputError
    when it has neither or another dense model's, DisagreementError naming the first block that differs.
    """
    sources = resolve(dense), resolve(pruned)
    cut, blocks = (sources[1].folder / name for name in ("cut.json", "blocks.json"))
    if not cut.exists() and not blocks.exists():
        raise InputError(
            f"{pruned} has no cut.json or blocks.json: only models that lost heads, channels or blocks can be verified"
        )
    wide, small = (load_with_head(source, torch.float32) for source in sources)
    if wide.config.model_type != small.config.model_type:
        kinds = f"{dense} is a {wide.config.model_type}, {pruned} a {small.config.model_type}"
        raise InputError(f"{kinds}: they are no pair")
    if not cut.exists():
        return _verify_blocks(wide, small, read_document(blocks).get("kept"), tokens)
    if wide.config.model_type in ENCODERS:
        return _verify_heads(wide, small, Cut.load(cut), tokens)
    kept = Cut.load(cut)
    return verify(wide, small, all_sites(Adapter(wide), kept.kept), kept, _ids(wide, tokens))


def _ids(model: PreTrainedModel, tokens: int) -> TokenIds:
    length = min(tokens, max_length(model.config) or tokens)
    return torch.randint(model.config.vocab_size, (1, length), generator=generator(0, "verify", tokens))


@torch.no_grad()
def _verify_blocks(wide: PreTrainedModel, small: PreTrainedModel, kept: Any, tokens: int) -> Agreement:
    """The same for a model that has lost whole blocks: the dense one skips them."""
    blocks = Adapter(wide).blocks()
    rising = isinstance(kept, list) and all(type(number) is int for number in kept) and kept == sorted(set(kept))
    if not rising or not kept or not 0 <= kept[0] <= kept[-1] < len(blocks):
        raise InputError(f"blocks.json keeps {kept!r}, and the dense model has {len(blocks)} blocks: they are no pair")
    if len(Adapter(small).blocks()) != len(kept):
        raise InputError(f"blocks.json keeps {len(kept)} blocks, the model has {len(Adapter(small).blocks())}")
    ids = _ids(wide, tokens)
    for number, block in enumerate(blocks):
        if number not in kept:
            block.module.forward = _skipped(tuples=block.family.adds_residual)
    apart = difference(wide(ids, use_cache=False).logits, small(ids, use_cache=False).logits)
    if not apart <= 1e-3:
        raise DisagreementError(
            f"logits differ from those of the dense model without its other blocks by {apart:.2g} of the largest, "
            "allowed is 0.001: the folders do not belong together, or weights were trained after the cut"
        )
    return Agreement(apart, [apart])


def _skipped(*, tuples: bool) -> Callable[..., Any]:
    return lambda hidden, *rest, **named: (hidden, None) if tuples else hidden


@torch.no_grad()
def _verify_heads(
    wide: PreTrainedModel, small: PreTrainedModel, cut: Cut, tokens: int, *, tolerance: float = 1e-3
) -> Agreement:
    """The same for a model that has lost heads alone: gates at 0 stand in for them; logits are compared."""
    all_attentions = attentions(wide)
    kept = {name.rpartition(".")[0]: indices for name, indices in cut.kept.items()}
    strange = kept.keys() - {attention.name for attention in all_attentions}
    if strange:
        raise InputError(
            f"cut names attention {min(strange)!r}, which the model does not have, such as {all_attentions[0].name!r}"
        )
    gates = [torch.ones(attention.heads) for attention in all_attentions]
    for gate, attention in zip(gates, all_attentions, strict=True):
        if attention.name in kept:
            gate.zero_()[list(kept[attention.name])] = 1.0
    batch = example_batch(wide, tokens)
    with gated(all_attentions, gates):
        expected = wide(**batch).logits
    apart = difference(expected, small(**batch).logits)
    if not apart <= tolerance:
        raise DisagreementError(
            f"logits differ from the dense model's with gates at 0 by {apart:.2g} of the largest, allowed is "
            f"{tolerance:g}: the folders do not belong together, or weights were trained after the cut"
        )
    return Agreement(apart, [apart])

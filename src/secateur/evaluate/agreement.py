"""verify_folders(dense, pruned) -> how far a shrunk folder is from its masked dense model."""

from pathlib import Path

import torch
from transformers import PreTrainedModel

from secateur.adapt.adapter import Adapter
from secateur.adapt.sites import all_sites
from secateur.adapt.source import load
from secateur.adapt.stacks import STACKS, attentions, example_batch
from secateur.core.cut import Cut
from secateur.core.errors import InputError, NumericalError
from secateur.core.seed import generator
from secateur.score.gates import gated
from secateur.surgery.verify import Agreement, difference, verify

__all__ = ["verify_folders"]


def verify_folders(dense: str, pruned: str, *, tokens: int = 64) -> Agreement:
    """Compare two model folders on random token ids, in float32.

    Raises InputError when `pruned` has no cut.json, NumericalError naming the first
    block that differs.
    """
    path = Path(pruned) / "cut.json"
    if not path.exists():
        raise InputError(f"{pruned} has no cut.json: only models pruned with pattern units can be verified")
    cut = Cut.load(path)
    wide, small = load(dense, torch.float32), load(pruned, torch.float32)
    if wide.config.model_type in STACKS:
        return _verify_heads(wide, small, cut, tokens)
    sites = all_sites(Adapter(wide), cut.kept)
    ids = torch.randint(wide.config.vocab_size, (1, tokens), generator=generator(0, "verify", tokens))
    return verify(wide, small, sites, cut, ids)


@torch.no_grad()
def _verify_heads(
    wide: PreTrainedModel, small: PreTrainedModel, cut: Cut, tokens: int, *, tolerance: float = 1e-3
) -> Agreement:
    """The same for a model that has lost heads alone: gates at 0 stand in for them; logits are compared."""
    found = attentions(wide)
    kept = {name.rpartition(".")[0]: indices for name, indices in cut.kept.items()}
    strange = kept.keys() - {attention.name for attention in found}
    if strange:
        raise InputError(
            f"cut names attention {min(strange)!r}, which the model does not have, such as {found[0].name!r}"
        )
    gates = [torch.ones(attention.heads) for attention in found]
    for gate, attention in zip(gates, found, strict=True):
        if attention.name in kept:
            gate.zero_()[list(kept[attention.name])] = 1.0
    batch = example_batch(wide, tokens)
    with gated(found, gates):
        expected = wide(**batch).logits
    apart = difference(expected, small(**batch).logits)
    if not apart <= tolerance:
        raise NumericalError(
            f"logits differ from the dense model's with gates at 0 by {apart:.2g} of the largest, allowed is "
            f"{tolerance:g}: the folders do not belong together, or weights were trained after the cut"
        )
    return Agreement(apart, [apart])

"""verify_folders(dense, pruned) -> how far a shrunk folder is from its masked dense model."""

from pathlib import Path

import torch

from secateur.adapt.adapter import Adapter
from secateur.adapt.sites import all_sites
from secateur.adapt.source import load
from secateur.core.cut import Cut
from secateur.core.errors import InputError
from secateur.core.seed import generator
from secateur.surgery.verify import Agreement, verify

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
    sites = all_sites(Adapter(wide), cut.kept)
    ids = torch.randint(wide.config.vocab_size, (1, tokens), generator=generator(0, "verify", tokens))
    return verify(wide, small, sites, cut, ids)

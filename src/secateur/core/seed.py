"""Named random streams: one seed and a path of names to a Generator."""

import hashlib

import torch

__all__ = ["generator"]


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator fixed by the seed and the names, independent of call order."""
    path = "/".join(str(part) for part in (seed, *names))
    digest = hashlib.sha256(path.encode()).digest()
    stream = torch.Generator()
    stream.manual_seed(int.from_bytes(digest[:8], "big") >> 1)  # torch takes 64 bits with a sign
    return stream

"""What this process holds: its peak, and giving freed memory back to the system."""

import ctypes
import resource
import sys

__all__ = ["give_back_freed", "peak_memory_mb"]


def peak_memory_mb() -> float:
    """The process's peak resident memory so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def give_back_freed() -> None:
    """Return freed heap pages to the system (glibc keeps them, a few MB a block)."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)

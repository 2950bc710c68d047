"""What this process holds: its peak, and giving freed memory back to the system."""

import ctypes
import resource
import sys
from pathlib import Path

__all__ = ["give_back_freed", "peak_memory_mb", "resident_memory_mb"]


def peak_memory_mb() -> float:
    """The process's peak resident memory so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)  # bytes on macOS, kilobytes elsewhere


def resident_memory_mb() -> float:
    """What the process holds now, in MB; its peak where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])  # the second field: resident pages
    except OSError:
        return peak_memory_mb()
    return pages * resource.getpagesize() / (1 << 20)


def give_back_freed() -> None:
    """Return freed heap pages to the system (glibc keeps them, a few MB a block)."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)

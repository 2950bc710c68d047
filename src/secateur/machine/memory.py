"""What this process holds: its peak, freed memory given back to the system, or kept for the next tensor."""

import ctypes
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["freed_memory_kept", "give_back_freed", "peak_memory_mb", "resident_memory_mb"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers of mallopt in glibc's malloc.h
_LARGE, _USUAL = 2**30, 2**25  # bytes; the second is what glibc's own threshold grows to
_depth = 0


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


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let the process keep memory that it frees, until the outermost block ends; where glibc's malloc is not, nothing.

    A tensor of several megabytes is else mapped anew each time, and the system clears its pages: a third of the time
    of a network's forward pass over a batch of pictures.
    """
    global _depth
    libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    _depth += 1
    _set(libc, _LARGE)
    try:
        yield
    finally:
        _depth -= 1
        if not _depth:
            _set(libc, _USUAL)
            libc.malloc_trim(0)


def _set(libc: Any, size: int) -> None:
    libc.mallopt(_MMAP_THRESHOLD, size)
    libc.mallopt(_TRIM_THRESHOLD, size)

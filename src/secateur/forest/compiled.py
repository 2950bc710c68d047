"""compiled: numba where loops are hot, kept on disk; run-time type checks are taken off first."""

import inspect
from collections.abc import Callable
from typing import Any

from numba import njit

__all__ = ["compiled"]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of arrays and numbers."""
    made: Callable[..., Any] = njit(cache=True, nogil=True)(inspect.unwrap(function))
    return made

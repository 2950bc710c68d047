"""compiled: numba where loops are hot, kept on disk; run-time type checks are taken off first."""

import inspect
from collections.abc import Callable
from typing import Any

from secateur.core.errors import InputError

__all__ = ["compiled"]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of arrays and numbers. Raises InputError without numba."""
    try:
        from numba import njit
    except ImportError as error:
        raise InputError("forests and lotteries need numba: pip install 'secateur[forest,lottery]'") from error
    # nogil: joblib's threads run at once.
    made: Callable[..., Any] = njit(cache=True, nogil=True)(inspect.unwrap(function))
    return made

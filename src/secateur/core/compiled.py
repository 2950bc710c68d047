"""Compiled code where loops are hot, kept on disk: functions by numba, C++ files of the package by a compiler."""

import ctypes
import inspect
import logging
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from secateur.core.cache import cached, file_digest
from secateur.core.errors import InputError

__all__ = ["compiled", "library"]

# Speed without leaving IEEE arithmetic: NaN and infinity stay what they are.
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
_log = logging.getLogger(__name__)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of arrays and numbers, its run-time type checks taken off. Raises InputError without numba."""
    try:
        from numba import njit
    except ImportError as error:
        raise InputError("forests and lotteries need numba: pip install 'secateur[forest,lottery]'") from error
    # nogil: joblib's threads run at once.
    made: Callable[..., Any] = njit(cache=True, nogil=True)(inspect.unwrap(function))
    return made


@cache
def library(source: Path, flags: tuple[str, ...] = ()) -> ctypes.CDLL | None:
    """A C++ file of the package, compiled for this processor; None, and a note in the log, where that cannot be.

    $CXX names the compiler, else g++ or clang++. SECATEUR_COMPILE=0 turns compiling off. flags: more of the compiler's.
    """
    compiler = shutil.which(os.environ.get("CXX") or "g++") or shutil.which("clang++")
    if compiler is None or os.environ.get("SECATEUR_COMPILE") == "0":
        _log.info("%s is not compiled: torch computes the same, more slowly", source.name)
        return None
    try:
        made = cached(
            f"{source.stem}.so",
            lambda room: _build([compiler, *_FLAGS, *flags], source, room),
            of=(file_digest(source), compiler, *_FLAGS, *flags, _processor()),
        )
        return ctypes.CDLL(str(made))
    except (OSError, subprocess.CalledProcessError, InputError) as error:
        told = getattr(error, "stderr", "") or str(error)
        _log.warning(
            "%s cannot be compiled (%s): torch computes the same, more slowly", source.name, told.strip()[:300]
        )
        return None


def _build(command: list[str], source: Path, room: Path) -> None:
    subprocess.run([*command, str(source), "-o", str(room)], check=True, capture_output=True, text=True)


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())

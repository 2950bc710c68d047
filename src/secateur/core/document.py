"""JSON of plain data with one clear refusal, folders that appear whole, and what a full disk says."""

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from secateur.core.errors import InputError, StorageError

__all__ = ["new_folder", "read_document", "storage_errors", "write_document"]


def read_document(path: Path) -> dict[str, Any]:
    """A JSON object from a file; raises InputError naming the file otherwise."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(data, dict):
        raise InputError(f"{path} should hold a JSON object, found a {type(data).__name__}")
    return data


def write_document(path: Path, data: dict[str, Any]) -> None:
    """Write a JSON object whole: a temporary name first, then moved."""
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turn a full or failing disk into one sentence."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "the disk is full; free some space and add --resume" if full else f"{error}; name another place"
        raise StorageError(f"{folder} cannot be written: {why}") from error
    except SafetensorError as error:
        raise StorageError(f"{folder} cannot be written: {error}; free some space and add --resume") from error


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A place to write what becomes `out`; on any error nothing is left. Raises InputError when `out` exists."""
    if out.exists():
        raise InputError(f"output {str(out)!r} already exists: remove it or name another")
    partial = out.with_name(out.name + ".new")  # .partial is what a resumable run leaves
    try:
        with storage_errors(out):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            yield partial
            partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)

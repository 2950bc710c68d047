"""Where results are written: names checked before any work, files and folders that appear whole, a full disk told."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from secateur.core.errors import InputError, StorageError

__all__ = ["check_output", "new_file", "new_folder", "reserve", "room_beside", "storage_errors"]

_LONGEST = 255  # bytes of a file name
_FREE = "free some space and rerun the command, with --resume where it has one"
_SPARE = 20  # bytes that temporary names add


def check_output(out: Path, *, may_be_empty: bool = False) -> None:
    """Refuse a name that nothing can be written to, before any work is done.

    may_be_empty: an empty folder of this name may exist. Raises InputError on a name that is taken, too long or no
    name, and StorageError where the folder it would stand in cannot be written.
    """
    shown = repr(str(out))
    if "\0" in str(out):
        raise InputError(f"output {shown} holds a NUL character: name another")
    if out.name in ("", "..") or out.absolute() == Path.cwd():
        raise InputError(f"output {shown} is no name of its own: name a file or folder to create")
    if len(os.fsencode(out.name)) > _LONGEST - _SPARE:
        raise InputError(f"output name {out.name[:20]!r}... is too long: use at most {_LONGEST - _SPARE} bytes")
    try:
        if out.is_symlink():
            raise InputError(f"output {shown} is a link to {str(out.readlink())!r}: name the place itself")
        empty = may_be_empty and out.is_dir() and not any(out.iterdir())
        if out.exists() and not empty:
            raise InputError(f"output {shown} already exists: remove it or name another")
        _check_parent(out)
    except OSError as error:
        raise StorageError(f"output {shown} cannot be written: {error}; name another place") from error


def _check_parent(out: Path) -> None:
    """Try whether something can be created where `out`, or the first folder it lacks, would stand."""
    place = out.absolute().parent
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise StorageError(f"output {str(out)!r} cannot be written: {str(place)!r} is not a folder")
    trial = room_beside(place / "try")
    trial.mkdir()
    trial.rmdir()


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turn a full or failing disk into one sentence."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = f"the disk is full; {_FREE}" if full else f"{error}; name another place"
        raise StorageError(f"{folder} cannot be written: {why}") from error
    except SafetensorError as error:
        raise StorageError(f"{folder} cannot be written: {error}; {_FREE}") from error


def room_beside(out: Path) -> Path:
    """A name in the folder of `out` that nobody else has: nothing is created."""
    return out.with_name(f".{out.name[:200]}.{secrets.token_hex(4)}")


@contextmanager
def new_file(out: Path) -> Iterator[Path]:
    """A place to write what becomes the file `out`, replacing it; on any error nothing is left."""
    room = room_beside(out)
    room = room.with_name(room.name + out.suffix)  # writers that go by the ending
    try:
        yield room
        _set_mode(room)
        room.replace(out)
    finally:
        with suppress(OSError):  # moved away, never made, or the disk fails: the first error counts
            room.unlink(missing_ok=True)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A place to write what becomes the folder `out`; on any error nothing is left.

    Raises InputError when `out` exists or is no usable name, StorageError when it cannot be written.
    """
    check_output(out)
    room = room_beside(out)
    try:
        with storage_errors(out):
            room.mkdir(parents=True)
            yield room
            for file in room.rglob("*"):
                if file.is_file():
                    _set_mode(file)
            room.replace(out)
    finally:
        shutil.rmtree(room, ignore_errors=True)


def reserve(path: Path, size: int) -> None:
    """Create a file of `size` bytes that the disk really has. Raises OSError where it has not."""
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate") and size:
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


def _set_mode(file: Path) -> None:
    """Give a file the mode that new files get here: some writers leave it to its owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    file.chmod(0o666 & ~mask)

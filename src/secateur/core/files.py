"""Files and folders: names checked before any work, written whole; JSON and YAML read with one clear refusal."""

import errno
import glob
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

from secateur.core.errors import InputError, RecipeError, StorageError

__all__ = [
    "check_folder",
    "check_output",
    "new_file",
    "new_folder",
    "parse_json",
    "read_document",
    "read_sealed",
    "read_settings",
    "reserve",
    "room_beside",
    "storage_errors",
    "write_document",
    "write_sealed",
]

_SEAL = "sha256"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_LONGEST = 255  # bytes of a file name
_FREE = "free some space and rerun the command, with --resume where it has one"
_SPARE = 36  # bytes that temporary names add


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


def check_folder(folder: Path) -> None:
    """Refuse a folder that files cannot be added to, before any work is done; it need not exist yet."""
    if not folder.is_dir():
        check_output(folder)
        return
    try:
        _check_parent(folder / "file")
    except OSError as error:
        raise StorageError(f"folder {str(folder)!r} cannot be written: {error}; name another place") from error


def _check_parent(out: Path) -> None:
    """Look whether something can be created where `out`, or the first folder it lacks, would stand."""
    place = out.absolute().parent
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise StorageError(f"output {str(out)!r} cannot be written: {str(place)!r} is not a folder")
    if not os.access(place, os.W_OK | os.X_OK):  # nothing is created: a kill would leave it
        raise StorageError(f"output {str(out)!r} cannot be written: {str(place)!r} is read-only; name another place")


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
    """A name in the folder of `out` that nobody else has: nothing is created.

    Names that processes of this machine left when they were killed are cleared up first.
    """
    stem = f".{out.name[:200]}.{_machine()}-"
    with suppress(OSError):
        for left in out.parent.glob(f"{glob.escape(stem)}*"):
            process = left.name.removeprefix(stem).split("-")[0]
            if process.isdecimal() and not _runs(int(process)):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    return out.with_name(f"{stem}{os.getpid()}-{secrets.token_hex(4)}")


def _machine() -> str:
    """A name for this machine: a process is known by its number on one alone."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]


def _runs(process: int) -> bool:
    """Whether a process is there; where that cannot be told, it is."""
    if os.name == "nt":  # a signal of 0 is no question there
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


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
    # Beside the target, as only a move within one file system is atomic.
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
    mask = os.umask(0)  # the mask can only be read by setting it
    os.umask(mask)
    file.chmod(0o666 & ~mask)


def parse_json(text: str) -> Any:
    """What a JSON text holds. Raises ValueError, also where it nests too deep or holds half of a surrogate pair."""
    try:
        data = json.loads(text)
        if _SURROGATE.search(text):
            json.dumps(data, ensure_ascii=False).encode()
        return data
    except UnicodeEncodeError as error:
        raise ValueError("it holds half of a surrogate pair, which is no text") from error
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def read_document(path: Path) -> dict[str, Any]:
    """A JSON object from a file; raises InputError naming the file otherwise."""
    try:
        data = parse_json(path.read_text(encoding="utf-8-sig"))  # Windows editors put a byte-order mark in front
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(data, dict):
        raise InputError(f"{path} should hold a JSON object, found a {type(data).__name__}")
    return data


def write_document(path: Path, data: dict[str, Any]) -> None:
    """Write a JSON object whole: under another name first, then moved."""
    with new_file(path) as room:
        room.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def write_sealed(path: Path, data: dict[str, Any]) -> None:
    """Write a JSON object with a digest of its own, for `read_sealed`."""
    plain = json.loads(json.dumps(data))  # tuples become lists before the digest, as they will when it is read
    write_document(path, plain | {_SEAL: _digest(path, plain)})


def read_sealed(path: Path) -> dict[str, Any]:
    """What `write_sealed` wrote under this name. Raises InputError when anything in the file has changed since."""
    data = read_document(path)
    if data.pop(_SEAL, None) != _digest(path, data):
        raise InputError(f"{path} is damaged: its content does not fit its digest")
    return data


def _digest(path: Path, data: dict[str, Any]) -> str:
    """SHA-256 of a file's name and of what it holds: another file in its place is noticed too."""
    return hashlib.sha256(f"{path.name} {json.dumps(data, sort_keys=True)}".encode()).hexdigest()


class _Plain(yaml.SafeLoader):
    """YAML without aliases, which can make a short file endless, and without a key given twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"aliases (*name) are not read{self.peek_event().start_mark}")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if not isinstance(key, Hashable) or keys.count(key) > 1:
                raise yaml.YAMLError(f"key {key!r} is given twice or cannot be a key{node.start_mark}")
        return super().construct_mapping(node, deep)


def read_settings(path: Path) -> Any:
    """The plain data of a YAML file. Raises RecipeError naming the file."""
    try:
        return yaml.load(path.read_text(encoding="utf-8-sig"), _Plain)  # a SafeLoader
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        why = "it is nested too deep" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise RecipeError(f"recipe {path} cannot be read: {why}") from error

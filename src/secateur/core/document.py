"""JSON of plain data: read with one clear refusal, written whole, sealed with a digest where bits must not change."""

import hashlib
import json
from pathlib import Path
from typing import Any

from secateur.core.errors import InputError
from secateur.core.output import new_file

__all__ = ["parse_json", "read_document", "read_sealed", "write_document", "write_sealed"]

_SEAL = "sha256"


def parse_json(text: str) -> Any:
    """What a JSON text holds. Raises ValueError, also where it is nested too deep to be read."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def read_document(path: Path) -> dict[str, Any]:
    """A JSON object from a file; raises InputError naming the file otherwise."""
    try:
        data = parse_json(path.read_text(encoding="utf-8-sig"))
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
    plain = json.loads(json.dumps(data))
    write_document(path, plain | {_SEAL: _digest(plain)})


def read_sealed(path: Path) -> dict[str, Any]:
    """What `write_sealed` wrote. Raises InputError when anything in the file has changed since."""
    data = read_document(path)
    if data.pop(_SEAL, None) != _digest(data):
        raise InputError(f"{path} is damaged: its content does not fit its digest")
    return data


def _digest(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

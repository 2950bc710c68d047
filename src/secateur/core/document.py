"""Read and write the JSON of plain data: one loader, one clear refusal."""

import json
from pathlib import Path
from typing import Any

from secateur.core.errors import InputError

__all__ = ["read_document", "write_document"]


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

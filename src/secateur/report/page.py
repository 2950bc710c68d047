"""One self-contained HTML page of one or more runs: no request leaves it, and text of a run never becomes markup."""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from secateur.core.errors import InputError
from secateur.core.files import new_file, storage_errors
from secateur.report.runs import read_run

__all__ = ["report_page", "write_report"]


def write_report(folders: Sequence[Path], out: Path) -> None:
    """Write the page of these run folders. Raises InputError on a folder that holds no run, and where `out` exists."""
    if out.exists():
        raise InputError(f"output {out} already exists: choose another name, or remove it")
    page = report_page([read_run(folder) for folder in folders])
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with new_file(out) as room:
            room.write_text(page, encoding="utf-8")


def report_page(runs: Sequence[Mapping[str, Any]]) -> str:
    """The page as HTML. Data stands in it as JSON; < is escaped, so that no text of a run ends the script."""
    data = json.dumps({"runs": list(runs)}, allow_nan=False, default=str)
    escaped = data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    parts = {"style": _part("page.css"), "script": _part("page.js"), "data": escaped}
    page = _part("page.html")
    for name in ("style", "script", "data"):  # data last: it may hold the others' marks
        page = page.replace(f"/*{name}*/", parts[name], 1)
    return page


def _part(name: str) -> str:
    return files("secateur.report").joinpath(name).read_text(encoding="utf-8")

"""Methods x ratios x allocators on one model, resumable, and one page with the frontier of what is best."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from secateur.core.errors import InputError, SecateurError
from secateur.core.files import parse_json, read_document, read_settings, storage_errors, write_document
from secateur.events import stage
from secateur.registry import nearest
from secateur.report.page import report_page
from secateur.report.runs import read_run
from secateur.run.prune import prune
from secateur.run.recipe import Recipe, parse_recipe

__all__ = ["Cell", "Grid", "compare", "read_grid"]

Progress = Callable[[int, int], None]
_AXES = ("methods", "ratios", "allocators")
_OWN = ("model", "keep_models", *_AXES)
_RECORD = "compare.json"
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")


@dataclass(frozen=True)
class Cell:
    """One run of a grid: its name, which is its folder's, and its recipe."""

    name: str
    recipe: Recipe


@dataclass(frozen=True)
class Grid:
    """The runs to compare.

    model: what all of them prune.
    cells: the runs, in the order of the file.
    refused: pairs that do not go together, by name, and why.
    keep_models: whether weights stay on disk after a run.
    """

    model: str
    cells: Sequence[Cell]
    refused: Mapping[str, str]
    keep_models: bool = False


def read_grid(path: Path) -> Grid:
    """A grid from YAML: model, methods, ratios, allocators, keep_models, and keys of recipes that all runs share.

    A method is a name, or a mapping with `name` and fields of a recipe such as pattern. Raises RecipeError and
    InputError on what no run could be, such as a method that fits none of the ratios and allocators.
    """
    data = read_settings(path)
    if not isinstance(data, dict) or not isinstance(data.get("model"), str):
        raise InputError(f"grid {path} should be a mapping with a model, methods and ratios")
    for axis in ("methods", "ratios"):
        if not isinstance(data.get(axis), list) or not data[axis]:
            raise InputError(f"grid {path} needs a list of {axis}{nearest(axis, list(data))}")
    shared = {key: value for key, value in data.items() if key not in _OWN}
    cells, refused = list[Cell](), dict[str, str]()
    for method in data["methods"]:
        rows, why = _rows(shared, method, product(data["ratios"], data.get("allocators") or ["uniform"]))
        cells += rows
        refused |= why
    names = [cell.name for cell in cells]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"grid {path} holds {twice} twice")
    return Grid(str(data["model"]), cells, refused, bool(data.get("keep_models", False)))


def _rows(
    shared: Mapping[str, Any], method: Any, pairs: Iterable[tuple[Any, Any]]
) -> tuple[list[Cell], dict[str, str]]:
    """The cells of a method, and why others are none. Raises a SecateurError where there is no cell."""
    rows, errors = list[Cell](), dict[str, SecateurError]()
    for ratio, allocator in pairs:
        name, settings = _settings(method, ratio, allocator)
        try:
            rows.append(Cell(name, parse_recipe({**shared, **settings})))
        except SecateurError as error:
            errors[name] = error
    if errors and not rows:  # a mistyped name or key, not a pair that does not go together
        raise next(iter(errors.values()))
    return rows, {name: str(error) for name, error in errors.items()}


def _settings(method: Any, ratio: Any, allocator: Any) -> tuple[str, dict[str, Any]]:
    """The name of a cell, and the keys of its recipe that are its own."""
    own: dict[str, Any] = dict(method) if isinstance(method, dict) else {"method": method}
    if "name" in own:
        own["method"] = own.pop("name")
    if not isinstance(own.get("method"), str):
        raise InputError(f"method {method!r} of the grid should be a name, or a mapping with a name")
    allocated = allocator if isinstance(allocator, str) else str(dict(allocator).get("name"))
    if isinstance(ratio, bool) or not isinstance(ratio, int | float):
        raise InputError(f"ratio {ratio!r} of the grid should be a number, such as 0.5")
    parts = [own["method"], *(str(value) for key, value in own.items() if key != "method"), f"{ratio:g}", allocated]
    name = "-".join(part.replace("/", "_").replace(":", "of") for part in parts)
    return name, {**own, "ratio": float(ratio), "allocator": allocator}


def compare(grid: Grid, out: Path, *, progress: Progress | None = None) -> dict[str, Any]:
    """Run every cell that is not done into OUT/NAME, and write OUT/report.html.

    A folder that another grid wrote is refused. An interrupted comparison continues where it stopped, inside a run too.
    Cells that their model or method refuses are told in `refused`, and stop nothing. Returns `done` and `refused`.
    """
    told = progress or (lambda done, total: None)
    record = _open(grid, out)
    for number, cell in enumerate(grid.cells):
        told(number, len(grid.cells))
        if cell.name in record["done"] or cell.name in record["refused"]:
            continue
        stage(f"run {number + 1} of {len(grid.cells)}: {cell.name}")
        try:
            prune(grid.model, cell.recipe, out / cell.name, resume=True)
        except SecateurError as error:
            record["refused"][cell.name] = str(error)
        else:
            record["done"].append(cell.name)
            if not grid.keep_models:
                _drop_weights(out / cell.name)
        with storage_errors(out):
            write_document(out / _RECORD, record)
    runs = [read_run(out / name) for name in record["done"]]
    with storage_errors(out):
        (out / "report.html").write_text(report_page(runs), encoding="utf-8")
    told(len(grid.cells), len(grid.cells))
    return {"done": record["done"], "refused": record["refused"], "report": str(out / "report.html")}


def _open(grid: Grid, out: Path) -> dict[str, Any]:
    """The record of a comparison that began, or a new one. Raises InputError where the folder is of something else."""
    cells: dict[str, Any] = parse_json(json.dumps({cell.name: cell.recipe.to_dict() for cell in grid.cells}))
    if (out / _RECORD).is_file():
        record = read_document(out / _RECORD)
        for name in set(record.get("cells", {})) & set(cells):
            if record["cells"][name] != cells[name] or record.get("model") != grid.model:
                raise InputError(f"{out} holds {name} of another grid: choose another folder")
        return {**record, "cells": record.get("cells", {}) | cells}
    if out.exists() and any(out.iterdir()):
        raise InputError(f"output {out} exists and holds no comparison: choose another folder")
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    return {"model": grid.model, "cells": cells, "done": [], "refused": dict(grid.refused)}


def _drop_weights(folder: Path) -> None:
    for pattern in _WEIGHTS:
        for file in folder.glob(pattern):
            file.unlink()

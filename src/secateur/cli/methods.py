"""The command that lists what a run can be made of, a table a kind, and tells all of one name."""

import dataclasses
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from secateur.core.errors import InputError
from secateur.registry import Row, Table, nearest
from secateur.run.methods import (
    ALLOCATORS,
    CHANNEL_ALLOCATORS,
    CHANNEL_METHODS,
    COMMANDS,
    METHODS,
    NETWORK_METHODS,
    PATTERNS,
    REPAIRS,
    SCORES,
    SOLVERS,
    Method,
)
from secateur.terminal.console import AsJson, screen

__all__ = ["methods"]

_HEADS = {  # kinds, and what each is for
    "method": "Methods for language models (--method)",
    "allocator": "Allocators: a ratio for every layer (--allocator)",
    "pattern": "Patterns: the shape of what is removed (--pattern)",
    "network method": "Methods for image networks (--method)",
    "network allocator": "Allocators for image networks (--allocator)",
    "network repair": "Repairs for image networks (--repair)",
    "command": "Methods with a command of their own",
    "score": "Scores, for method: {name: refit, score: NAME} in a recipe",
    "solver": "Solvers, which methods build on",
}
_TABLES: Mapping[str, Table[Any]] = {
    "method": METHODS,
    "allocator": ALLOCATORS,
    "network method": CHANNEL_METHODS,
    "score": SCORES,
    "solver": SOLVERS,
}
_WIDE, _LINE = 20, 66  # letters of a name's column, and of what stands beside it


def methods(
    name: Annotated[str | None, typer.Argument(help="One name, to see its formula, fields and file.")] = None,
    as_json: AsJson = False,
) -> None:
    """List methods, allocators, patterns, scores and solvers, or show one of them in full."""
    rows = _rows()
    if name is not None:
        _one(name, rows, as_json=as_json)
        return
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for kind, head in _HEADS.items():
        screen.print(f"{head}:", style="bold")
        for each, line in rows[kind].items():
            lines = textwrap.wrap(line, _LINE) or [""]
            screen.print(f"  {each:<{_WIDE}} {lines[0]}", soft_wrap=True)
            for more in lines[1:]:
                screen.print(" " * (_WIDE + 3) + more, soft_wrap=True)
        screen.print()
    screen.print("One in full: secateur methods NAME", soft_wrap=True)


def _rows() -> dict[str, dict[str, str]]:
    return {
        **{table.kind: table.lines() for table in (METHODS, SCORES, SOLVERS, ALLOCATORS)},
        "pattern": dict(PATTERNS),
        "network method": {**CHANNEL_METHODS.lines(), **NETWORK_METHODS},
        "network allocator": dict(CHANNEL_ALLOCATORS),
        "network repair": dict(REPAIRS),
        "command": dict(COMMANDS),
    }


def _one(name: str, rows: Mapping[str, Mapping[str, str]], *, as_json: bool) -> None:
    """Everything known of a name, in every kind that has it. Raises InputError on a name that none has."""
    kinds = [kind for kind in _HEADS if name in rows[kind]]
    if not kinds:
        raise InputError(f"name {name!r} is unknown{nearest(name, [each for kind in rows.values() for each in kind])}")
    told = {kind: {"line": rows[kind][name], **_details(kind, name)} for kind in kinds}
    if as_json:
        typer.echo(json.dumps(told, indent=2))
        return
    for kind, facts in told.items():
        screen.print(f"{name}, {kind}: {facts.pop('line')}", soft_wrap=True)
        for key, value in facts.items():
            screen.print(f"  {key}: {value}", soft_wrap=True)


def _details(kind: str, name: str) -> dict[str, Any]:
    """Usual pattern, formula, fields with their defaults, and the file, where a name stands for code."""
    found = _TABLES[kind].rows.get(name) if kind in _TABLES else None
    facts: dict[str, Any] = {}
    if isinstance(found, Method):
        facts["usual pattern"] = found.pattern
        if found.defaults:
            facts["is"] = {"name": found.solver, **found.defaults}
        found = SOLVERS.rows.get(found.solver) if isinstance(found.solver, str) else None
    if not isinstance(found, Row):
        return facts
    made = found.load()
    text = inspect.getdoc(made) or ""
    for line in text.splitlines():
        if line.startswith("Formula: "):
            facts["formula"] = line.removeprefix("Formula: ")
    if dataclasses.is_dataclass(made):
        facts["fields"] = dict(_fields(made))
    return facts | {"code": f"src/{found.place.partition(':')[0].replace('.', '/')}.py"}


def _fields(made: Any) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(made):
        default = field.default if field.default is not dataclasses.MISSING else "required"
        if default is None or isinstance(default, str | int | float | bool):
            yield field.name, default

"""What kind a field of a recipe is, from its annotation: one check for every dataclass that YAML fills."""

import math
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from secateur.core.errors import RecipeError

__all__ = ["check_kind", "shown"]

_LARGEST = 2**31  # of a whole number: more than any count of samples, tokens or blocks
_WORDS: Mapping[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    NoneType: "nothing",
    Mapping: "a mapping",
    Sequence: "a list",
}


def check_kind(what: str, key: str, value: Any, annotation: Any) -> Any:
    """Plain data as a field's annotation wants it: itself, a whole number as a float where one is asked for.

    Raises RecipeError saying what the field should be.
    """
    if not _fits(value, annotation):
        hint = "; write n:m patterns in quotes, as YAML reads 2:4 as a number" if key == "pattern" else ""
        raise RecipeError(f"{what}: {key} should be {_words(annotation)}, got {shown(value)}{hint}")
    number = isinstance(value, int) and not isinstance(value, bool)
    kinds = get_args(annotation) or (annotation,)
    return float(value) if number and float in kinds and int not in kinds else value


def _fits(value: Any, annotation: Any) -> bool:
    """Whether plain data is of an annotation's kind; of kinds that no file holds, anything is."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin is Mapping:
        return isinstance(value, Mapping) and all(_fits(k, parts[0]) and _fits(v, parts[1]) for k, v in value.items())
    if origin in (Sequence, tuple):
        return isinstance(value, list | tuple) and all(_fits(entry, parts[0]) for entry in value)
    return _fits_plain(value, annotation)


def _fits_plain(value: Any, annotation: Any) -> bool:
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if annotation is int:
        # True is an int to Python.
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST
    if annotation is str:
        return isinstance(value, str) and "\0" not in value
    if annotation in (bool, NoneType):
        return isinstance(value, annotation)
    return not _is_role(annotation) or (isinstance(value, annotation) and not isinstance(value, type))


def _is_role(annotation: Any) -> bool:
    """Whether it is a protocol, such as Score, of which an object may stand where files have a name."""
    return bool(getattr(annotation, "_is_runtime_protocol", False))


def _words(annotation: Any) -> str:
    """What an annotation asks for, in words."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join(_words(part) for part in parts if part is not NoneType and not _is_role(part))
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin is Mapping:
        return f"a mapping of {_words(parts[1]).removeprefix('a ')}s" if parts[1] in _WORDS else "a mapping"
    if origin in (Sequence, tuple):
        return f"a list of {_words(parts[0]).removeprefix('a ')}s"
    return _WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def shown(value: Any) -> str:
    """A value as a message shows it: not longer than a line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
